"""Rotary positions (RoPE, arXiv 2104.09864): keys and queries turned on, or back to where they were not turned.

The store holds keys as the model turned them. What is turned for position p and then by q - p is turned for q, so
entries can be given other positions, and heads can be shown what stood before any position.
"""

import torch


class Rotation:
    """`frequencies` `[pairs]`: radians that each pair of dimensions turns by a position. Pair i is dimensions i
    and i + pairs; dimensions behind the pairs are not turned."""

    def __init__(self, frequencies: torch.Tensor) -> None:
        self._frequencies = frequencies.detach().float()

    def angles(self, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine `[..., pairs]` of the angles that so many positions turn by, in float32."""
        angle = by[..., None].float() * self._frequencies.to(by.device)
        return angle.cos(), angle.sin()

    def turn(self, vectors: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """`vectors` `[..., head_dim]` turned on by so many positions, `by` `[...]` (it may broadcast), computed in
        float32; the result has the dtype of `vectors`."""
        pairs = len(self._frequencies)
        cos, sin = self.angles(by.to(vectors.device))
        first, second, rest = torch.split(vectors.float(), [pairs, pairs, vectors.shape[-1] - 2 * pairs], dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
        return turned.to(vectors.dtype)
