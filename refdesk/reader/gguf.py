"""A GGUF file, made into an ordinary model folder once.

transformers can run the packed weights only in float32 and unpacks them for seconds at every start, so they are
unpacked once and saved beside the data. The copy is float16: as small as bfloat16, and it keeps the three
bits of mantissa more that a 4-bit weight times a float16 scale needs, so a machine that computes in float32
loses next to nothing; bfloat16 only where a weight exceeds float16's range.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from refdesk.progress_bars import no_progress_bars
from refdesk.reader.fingerprint import file_identity

_HALF_MADE = ".half-made-"
_ABANDONED_S = 3600.0


def unpacked_gguf(gguf: Path, models_dir: Path, report: Callable[[str], None]) -> Path:
    """The folder with the unpacked copy of `gguf`, made now if there is none.

    The folder's name holds a digest of the file, so another file of the same name never finds this copy. It is
    written under another name and renamed when whole: a kill leaves no copy rather than half of one, and of
    two processes at once the second takes what the first has put there.
    """
    target = models_dir / f"{gguf.stem}-{file_identity(gguf)[:12]}"
    if target.is_dir():
        return target
    models_dir.mkdir(parents=True, exist_ok=True)
    _sweep(models_dir)
    started = time.perf_counter()
    report(f"unpacking {gguf.name} (first start only)")
    half_made = Path(tempfile.mkdtemp(prefix=_HALF_MADE, dir=models_dir))
    try:
        _unpack(gguf, half_made, report)
        half_made.chmod(0o755)  # mkdtemp's own is for one user only
        half_made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(half_made, ignore_errors=True)
    report(f"{target.name} is ready after {time.perf_counter() - started:.0f} s")
    return target


def _unpack(gguf: Path, folder: Path, report: Callable[[str], None]) -> None:
    with no_progress_bars(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        largest = max(float(weight.abs().max()) for weight in model.parameters())
        model.to(torch.float16 if largest < torch.finfo(torch.float16).max else torch.bfloat16)
        report(f"saving {model.num_parameters() / 1e6:.0f} M weights")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
        with file.open("rb") as handle:  # the rename must not reach the disk before what it names
            os.fsync(handle.fileno())


def _sweep(models_dir: Path) -> None:
    """Remove what killed processes left, but nothing that another one may be writing now."""
    for folder in models_dir.glob(f"{_HALF_MADE}*"):
        try:
            abandoned = time.time() - folder.stat().st_mtime > _ABANDONED_S
        except FileNotFoundError:
            continue
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)
