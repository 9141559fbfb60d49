"""Loading retaining heads: the ones that were trained for this model with this adapter, and no others."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.reader.adapter import Adapter
from refdesk.reader.errors import HeadsMismatch, HeadsNotFound
from refdesk.reader.forward import cache_shape, query_heads
from refdesk.reader.model import ReaderModel

_CARD = ("base_name", "base_fingerprint", "adapter_name", "adapter_fingerprint")


def load_heads(folder: Path, model: ReaderModel, adapter: Adapter | None = None) -> RetainingHeads:
    """The heads that `refdesk heads train` wrote, in the model's dtype and on its device. They were trained on
    what the model computes with its adapter, so both must be the same as then.

    Raises:
        HeadsNotFound: there are none, or they are damaged.
        HeadsMismatch: they are for another model, another adapter, or of other shapes.
    """
    _check_owners(folder, _read_card(folder / "card.json"), model, adapter)
    file = folder / "heads.safetensors"
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise HeadsNotFound(f"{file} cannot be read: {error}") from error
    if set(tensors) != {"down", "up"}:
        raise HeadsNotFound(f"{file} has {', '.join(sorted(tensors)) or 'nothing'}; expected down and up")
    _check_shapes(str(file), tensors, model)
    digest = hashlib.sha256()
    for name in ("down", "up"):
        digest.update(f"{name}:{tuple(tensors[name].shape)};".encode())
        digest.update(tensors[name].float().numpy().tobytes())
        tensors[name] = tensors[name].to(model.device, model.dtype)
        if not tensors[name].isfinite().all():
            raise HeadsNotFound(f"{file}: {name} has weights that are not finite in {model.dtype}")
    return RetainingHeads(digest.hexdigest()[:16], tensors["down"], tensors["up"])


def head_shapes(model: ReaderModel, inner: int) -> dict[str, tuple[int, int, int]]:
    """Of the weights of heads for `model`, `inner` wide; see RetainingHeads."""
    shape = cache_shape(model)
    width = (query_heads(model) + 2 * shape.kv_heads) * shape.head_dim
    return {"down": (shape.layers, width, inner), "up": (shape.layers, inner, shape.kv_heads)}


def _read_card(file: Path) -> dict[str, Any]:
    try:
        card = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise HeadsNotFound(f"{file} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise HeadsNotFound(f"{file} is no JSON object")
    for key in _CARD:
        if not isinstance(card.get(key), str):
            raise HeadsNotFound(f"{file}: {key} is {card.get(key)!r}; expected a text")
    return card


def _check_owners(folder: Path, card: dict[str, Any], model: ReaderModel, adapter: Adapter | None) -> None:
    if card["base_fingerprint"] != model.fingerprint:
        raise HeadsMismatch(
            f"heads {folder.name!r} were trained for {card['base_name']} (fingerprint {card['base_fingerprint']});"
            f" expected some for {model.name} ({model.fingerprint}), which runs"
        )
    if card["adapter_fingerprint"] != (adapter.fingerprint if adapter else ""):
        trained = _adapter(card["adapter_name"], card["adapter_fingerprint"])
        wanted = _adapter(adapter.name, adapter.fingerprint) if adapter else _adapter("", "")
        raise HeadsMismatch(f"heads {folder.name!r} were trained with {trained}; expected some with {wanted}")


def _adapter(name: str, fingerprint: str) -> str:
    return f"adapter {name!r} (fingerprint {fingerprint})" if fingerprint else "no adapter"


def check_fit(heads: RetainingHeads, model: ReaderModel) -> None:
    """Raise HeadsMismatch for heads of other shapes than `model` has."""
    _check_shapes(f"heads {heads.fingerprint}", {"down": heads.down, "up": heads.up}, model)


def _check_shapes(where: str, tensors: dict[str, torch.Tensor], model: ReaderModel) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in sorted(tensors.items())}
    expected = head_shapes(model, found["down"][-1] if found["down"] else 1)
    if found != expected:
        raise HeadsMismatch(f"{where} has shapes {found}; expected {expected} for {model.name}")
