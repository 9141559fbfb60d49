"""The oracle of passages that stand in line: plain attention in which some rows see keys somewhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import rotate_half


@contextmanager
def plain_attention(
    model: Any, mask: torch.Tensor, shifts: torch.Tensor, elsewhere: torch.Tensor
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Within, a row of `model` attends to what `mask` `[tokens, tokens]` says, and a row of `elsewhere` `[tokens]`
    to keys that stand `shifts` `[tokens]` further on, turned by the model's own embedding. Gives the query, the
    key, and the key as it stands elsewhere, of each call."""
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        cos, sin = rotary(key, shifts[None])
        far = key * cos[:, None] + rotate_half(key) * sin[:, None]
        seen.append((query[0], key[0], far[0]))
        group = query.shape[1] // key.shape[1]
        near_logits, far_logits = (query @ keys.repeat_interleave(group, 1).mT for keys in (key, far))
        logits = torch.where(elsewhere[:, None], far_logits, near_logits) * options["scaling"]
        attention = logits.masked_fill(~mask, float("-inf")).softmax(-1)
        return (attention @ value.repeat_interleave(group, 1)).transpose(1, 2), None

    (rotary,) = (module for module in model.modules() if hasattr(module, "inv_freq"))
    before = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS["plain_in_line"] = attend
    model.set_attn_implementation("plain_in_line")
    try:
        yield seen
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS["plain_in_line"]
