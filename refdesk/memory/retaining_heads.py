"""Retaining heads (Locret, arXiv 2410.01805, section 3.2): how much later answers will want an entry.

They say so from its own query, key and value alone. So it is known when the entry is made and never changes, which
is what lets a long text be thinned while it is read.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RetainingHeads:
    """One head a layer: `down` `[layers, (heads + 2 * kv_heads) * head_dim, inner]`, SiLU, `up` `[layers, inner,
    kv_heads]`, no biases.

    `fingerprint`: equal for equal weights; heads are so, too.
    """

    fingerprint: str
    down: torch.Tensor
    up: torch.Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RetainingHeads) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def score(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """`query` `[heads, rows, head_dim]`, `key` and `value` `[kv_heads, rows, head_dim]`, not turned for any
        position; the result is `[kv_heads, rows]` in float32."""
        x = head_input(query, key, value).to(self.down.dtype)
        return (torch.nn.functional.silu(x @ self.down[layer]) @ self.up[layer]).float().T


def head_input(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What a head is shown of each token, `[rows, (heads + 2 * kv_heads) * head_dim]`."""
    return torch.cat([query, key, value]).transpose(0, 1).flatten(1)
