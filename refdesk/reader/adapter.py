"""Adapters: low-rank additions to a model's linear layers (LoRA, arXiv 2106.09685), as peft saves them."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from refdesk.reader.errors import AdapterMismatch, AdapterNotFound

if TYPE_CHECKING:  # the model's layers know adapters
    from refdesk.reader.model import ReaderModel

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# What these fields may be in plain LoRA; the other ways to begin change the base model.
_ALLOWED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
# Fields that may be anything: read below, or about training and where weights lie. All others must be empty.
_FREE = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "task_type", "auto_mapping"),
    *("base_model_name_or_path", "revision", "peft_version", "inference_mode", "lora_dropout", "eva_config"),
    *("megatron_core", "qalora_group_size"),
}


@dataclass(frozen=True)
class Adapter:
    """`pairs`: of each layer, by its path in the model, A `[rank, in]` and B `[out, rank]`: it adds `B @ A @ x`.

    `fingerprint`: 16 hex digits, equal for adapters that add the same, whatever they are called; so are they.
    `base_name`, `base_fingerprint`: of the model that it was trained for.
    """

    name: str = field(compare=False)
    fingerprint: str
    base_name: str = field(compare=False)
    base_fingerprint: str = field(compare=False)
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(compare=False, repr=False)

    @property
    def ranks(self) -> set[int]:
        """Of its pairs."""
        return {len(a) for a, _ in self.pairs.values()}

    def check_fits(self, model: "ReaderModel") -> None:
        """Raise AdapterMismatch unless `model` can run it."""
        _check_model(self.name, self.base_name, self.base_fingerprint, model)


def load_adapter(folder: Path, model: "ReaderModel", name: str | None = None) -> Adapter:
    """The adapter that peft saved in `folder`, in the model's dtype and on its device; `name` is the folder's
    unless given. Its scale is folded into B. `card.json` beside it says which model it was trained for.

    Raises:
        AdapterNotFound: there is none, or it is damaged.
        AdapterMismatch: it is for another model or other layers, or more than plain LoRA.
    """
    name = name or folder.name
    card = _read_object(folder / "card.json")
    for key in ("base_name", "base_fingerprint"):
        if not isinstance(card.get(key), str):
            raise AdapterNotFound(f"{folder / 'card.json'}: {key} is {card.get(key)!r}; expected a text")
    _check_model(name, card["base_name"], card["base_fingerprint"], model)
    config = _Config(folder / "adapter_config.json")
    file = folder / "adapter_model.safetensors"
    digest = hashlib.sha256()
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for path, (a, b) in sorted(_read_pairs(file).items()):
        _check_shapes(f"{file}: {path}", a, b, config.rank(path), _layer_shape(f"{file}: {path}", path, model))
        a, b = a.float(), b.float() * config.scale(path)
        digest.update(f"{path}:{len(a)};".encode())
        digest.update(a.numpy().tobytes())
        digest.update(b.numpy().tobytes())
        pairs[path] = (a.to(model.device, model.dtype), b.to(model.device, model.dtype))
        if not all(half.isfinite().all() for half in pairs[path]):
            raise AdapterNotFound(f"{file}: {path} has weights that are not finite in {model.dtype}")
    return Adapter(name, digest.hexdigest()[:16], card["base_name"], card["base_fingerprint"], pairs)


class _Config:
    """`adapter_config.json`, as far as it is plain LoRA."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fields = _read_object(file)
        for name, allowed in _ALLOWED.items():
            if self._fields.get(name, allowed[0]) not in allowed:
                raise AdapterMismatch(
                    f"{file}: {name} is {self._fields[name]!r}; expected {' or '.join(map(repr, allowed))}"
                )
        for name, value in self._fields.items():
            if value and name not in _FREE and name not in _ALLOWED:
                raise AdapterMismatch(f"{file}: {name} is {value!r}; expected nothing, for only plain LoRA is run")

    def rank(self, path: str) -> int:
        """Of the pair of this layer."""
        rank = self._of_layer("r", "rank_pattern", path)
        if rank < 1 or rank != int(rank):
            raise AdapterNotFound(f"{self._file}: the rank of {path} is {rank!r}; expected a whole number from 1")
        return int(rank)

    def scale(self, path: str) -> float:
        """What the product of this layer's pair is multiplied with."""
        rank = self.rank(path)
        alpha = self._of_layer("lora_alpha", "alpha_pattern", path)
        return alpha / (math.sqrt(rank) if self._fields.get("use_rslora") else rank)

    def _of_layer(self, name: str, patterns: str, path: str) -> float:
        """As peft does: the first pattern that the end of the path matches, else the field itself."""
        value = self._fields.get(name)
        try:
            for pattern, special in (self._fields.get(patterns) or {}).items():
                if re.match(rf"(.*\.)?({pattern})$", path):
                    value = special
                    break
        except (AttributeError, re.error) as error:
            raise AdapterNotFound(f"{self._file}: {patterns} cannot be read: {error}") from error
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise AdapterNotFound(f"{self._file}: {name} of {path} is {value!r}; expected a number")
        return value


def _check_model(name: str, base_name: str, base_fingerprint: str, model: "ReaderModel") -> None:
    if base_fingerprint != model.fingerprint:
        raise AdapterMismatch(
            f"adapter {name!r} was trained for {base_name} (fingerprint {base_fingerprint}); expected one for"
            f" {model.name} ({model.fingerprint}), which runs"
        )
    if model.low_rank is None:
        raise AdapterMismatch(
            f"adapter {name!r} cannot be run by {model.name} as it was loaded; expected packed weights"
        )


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise AdapterNotFound(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise AdapterNotFound(f"{file} is no JSON object")
    return found


def _read_pairs(file: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B by the layer's path."""
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise AdapterNotFound(f"{file} cannot be read: {error}") from error
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise AdapterMismatch(f"{file} has {key}; expected lora_A.weight and lora_B.weight of layers only")
        halves.setdefault(found[1], {})[found[2]] = tensor
    alone = [path for path, both in halves.items() if len(both) != 2]
    if alone or not halves:
        raise AdapterNotFound(f"{file} is damaged: {alone[0] if alone else 'it'} has no lora_A and lora_B")
    return {path: (both["A"], both["B"]) for path, both in halves.items()}


def _layer_shape(where: str, path: str, model: "ReaderModel") -> tuple[int, int]:
    """`[out, in]` of a layer. The output layer is refused: it is given a few rows of a batch and not all."""
    assert model.low_rank is not None
    shape = model.low_rank.shapes.get(path)
    if shape is None or model.model.get_submodule(path) is model.model.get_output_embeddings():
        raise AdapterMismatch(f"{where} cannot be added to; expected a linear layer within {model.name}")
    return shape


def _check_shapes(where: str, a: torch.Tensor, b: torch.Tensor, rank: int, layer: tuple[int, int]) -> None:
    expected = ((rank, layer[1]), (layer[0], rank))
    found = (tuple(a.shape), tuple(b.shape))
    if found != expected:
        raise AdapterMismatch(f"{where} has a pair of shapes {found}; expected {expected}")
