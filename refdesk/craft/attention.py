"""Attention over a lesson, forward and backward, computing only what somebody sees.

torch's own attention for CPUs takes half of a training step, and longer still with a mask (docs/results.md). Here
rows are taken in tiles; a tile's scores are one product with the keys it sees, and are computed again in the
backward instead of being kept (as FlashAttention does, arXiv 2205.14135). Keys that stand elsewhere for branches
than for what is in front are given twice.
"""

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from refdesk.craft.encoding import EncodedLesson
from refdesk.memory.rotation import Rotation

_TILE = 128


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows `start` to `end` see the tokens `0` to `common` and `own` to `end`; of the last of these, those that
    `hidden` `[rows, some]` does not hide. `branch`: they are of branches."""

    start: int
    end: int
    common: int
    own: int
    hidden: torch.Tensor
    branch: bool = False

    def seen(self, of: torch.Tensor) -> torch.Tensor:
        """`[kv_heads, seen, head_dim]` of `[kv_heads, tokens, head_dim]`."""
        own = of[:, self.own : self.end]
        return torch.cat([of[:, : self.common], own], dim=1) if self.common else own

    def add(self, to: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add the gradient of what `seen` gave."""
        to[:, : self.common] += gradient[:, : self.common]
        to[:, self.own : self.end] += gradient[:, self.common :]


class LessonAttention:
    """The attention of a model that is being trained, in place of its own until `close()`. What is in front is
    causal, passages read apart see themselves and the common part, branches see what is in front and
    themselves. `rotation`: how the model turns, for lessons whose passages stand in line."""

    def __init__(self, model: Any, rotation: Rotation | None = None) -> None:
        self._model = model
        self._rotation = rotation
        self._shifts: torch.Tensor | None = None
        self._before = model.config._attn_implementation
        self._name = f"refdesk_lesson_{id(self):x}"
        self._tiles: list[_Tile] = []
        ALL_ATTENTION_FUNCTIONS[self._name] = self
        model.set_attn_implementation(self._name)

    def read(self, lesson: EncodedLesson) -> None:
        """What the next forward, and its backward, is about."""
        device = self._model.device
        self._shifts = torch.from_numpy(lesson.shifts).to(device) if lesson.shifts.any() else None
        front = int((lesson.groups >= 0).sum())
        ends = [0]
        for _, members in groupby(lesson.groups[:front].tolist()):
            ends.append(ends[-1] + len(list(members)))
        self._tiles = []
        for first, (start, end) in enumerate(pairwise(ends)):
            common = ends[1] if first else 0
            for a in range(start, end, _TILE):
                b = min(a + _TILE, end)
                hidden = torch.ones(b - a, b - a, dtype=torch.bool, device=device).triu(1)
                self._tiles.append(_Tile(a, b, common, start, hidden))
        branches = torch.from_numpy(~lesson.mask(front)).to(device)
        for a in range(front, len(lesson.groups), _TILE):
            b = min(a + _TILE, len(lesson.groups))
            self._tiles.append(_Tile(a, b, 0, 0, branches[a - front : b - front, front:b], True))

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """`query` `[1, heads, tokens, head_dim]`, `key` and `value` with the KV heads; the result is `[1, tokens,
        heads, head_dim]`."""
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        keys = (key[0], self.far(key[0]))
        output: torch.Tensor = _Attention.apply(query[0] * scale, *keys, value[0], self._tiles)  # type: ignore[no-untyped-call]
        return output.transpose(0, 1)[None], None

    def far(self, key: torch.Tensor) -> torch.Tensor:
        """`key` `[kv_heads, tokens, head_dim]` where it stands for the branches."""
        if self._shifts is None:
            return key
        assert self._rotation is not None, "passages stand in line only where it is known how to turn them"
        return self._rotation.turn(key, self._shifts)

    def close(self) -> None:
        """Give the model its own attention back."""
        self._model.set_attn_implementation(self._before)
        del ALL_ATTENTION_FUNCTIONS[self._name]


class _Attention(torch.autograd.Function):
    """`query` `[heads, tokens, head_dim]`, scaled; `key`, `far` (what branches see of it), `value` with the KV
    heads, each of which serves as many neighbouring heads, whose rows are taken as rows of one matrix."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        far: torch.Tensor,
        value: torch.Tensor,
        tiles: list[_Tile],
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, far, value)
        ctx.tiles = tiles
        output = torch.empty_like(query)
        for tile in tiles:
            weights = _weights(_rows(query, key, tile), tile.seen(far if tile.branch else key), tile)
            output[:, tile.start : tile.end] = torch.bmm(weights, tile.seen(value)).view(
                query.shape[0], -1, query.shape[2]
            )
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, far, value = ctx.saved_tensors
        of_query = torch.empty_like(query)
        # Many tiles add to a key; in bfloat16 the late ones would be lost.
        of_key, of_far, of_value = (torch.zeros_like(t, dtype=torch.float32) for t in (key, far, value))
        for tile in ctx.tiles:
            rows, keys = _rows(query, key, tile), tile.seen(far if tile.branch else key)
            weights = _weights(rows, keys, tile)
            of_output = _rows(gradients[0], key, tile)
            tile.add(of_value, torch.bmm(weights.transpose(1, 2), of_output))
            of_weights = torch.bmm(of_output, tile.seen(value).transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_query[:, tile.start : tile.end] = torch.bmm(of_scores, keys).view(
                query.shape[0], -1, query.shape[2]
            )
            tile.add(of_far if tile.branch else of_key, torch.bmm(of_scores.transpose(1, 2), rows))
        return of_query, of_key.to(key.dtype), of_far.to(key.dtype), of_value.to(value.dtype), None


def _rows(of: torch.Tensor, key: torch.Tensor, tile: _Tile) -> torch.Tensor:
    """`[kv_heads, group * rows, head_dim]`: the tile's rows of all heads that share a KV head."""
    return of[:, tile.start : tile.end].reshape(key.shape[0], -1, of.shape[2])


def _weights(rows: torch.Tensor, keys: torch.Tensor, tile: _Tile) -> torch.Tensor:
    """`[kv_heads, group * rows, seen]`, each row of which sums to 1."""
    scores = torch.bmm(rows, keys.transpose(1, 2))
    count, some = tile.hidden.shape
    scores.view(keys.shape[0], -1, count, keys.shape[1])[..., -some:].masked_fill_(tile.hidden, -torch.inf)
    return torch.softmax(scores, dim=-1)
