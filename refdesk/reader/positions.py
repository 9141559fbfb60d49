"""How a model turns its queries and keys for positions, found out by trying."""

from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from refdesk.memory.rotation import Rotation

# Rope types whose frequencies are not the same for every length of text.
_CHANGING = ("dynamic", "longrope")


def rotation_of(model: Any, far: int) -> Rotation | None:
    """How `model` turns, tried up to position `far`; None if that is not known: it has no frequencies of its own
    for it, or several, changes them with the length of the text, or turns in another way."""
    found = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), torch.Tensor)]
    if len(found) != 1 or getattr(found[0], "rope_type", "default") in _CHANGING:
        return None
    rotation = Rotation(found[0].inv_freq)
    positions = torch.tensor([0, 1, far], device=model.device)
    return rotation if all(_turned_so(keys, rotation, positions) for keys in _keys(model, positions)) else None


@torch.no_grad()
def _keys(model: Any, positions: torch.Tensor) -> list[torch.Tensor]:
    """`[kv_heads, positions, head_dim]` of each layer, of one token at all of these: nothing is attended to, so
    that they differ by their positions alone."""
    found: list[torch.Tensor] = []

    def attend(
        module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        found.append(key[0])
        return torch.zeros_like(query).transpose(1, 2), None

    before, name = model.config._attn_implementation, f"refdesk_keys_{id(found):x}"
    ALL_ATTENTION_FUNCTIONS[name] = attend
    model.set_attn_implementation(name)
    try:
        model(input_ids=torch.zeros_like(positions)[None], position_ids=positions[None], use_cache=False)
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS[name]
    return found


def _turned_so(keys: torch.Tensor, rotation: Rotation, positions: torch.Tensor) -> bool:
    expected = rotation.turn(keys[:, :1].float().expand(keys.shape), positions)
    rounding = max(4 * torch.finfo(keys.dtype).eps, 1e-3)
    return bool(((keys - expected).norm(dim=-1) <= rounding * keys.norm(dim=-1)).all())
