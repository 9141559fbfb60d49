"""The same attention as the reference, fast on CPUs: a kernel that reads blocks in place where a sequence has one
row, flash attention over gathered blocks where it has more."""

from threading import Lock

import numpy as np
import torch

from refdesk.memory.attention import PagedAttention, Part
from refdesk.memory.decode_kernel import attend
from refdesk.memory.errors import UnsupportedAttention
from refdesk.memory.pool import BlockPool

_compiled_code = Lock()  # one of numba's threading layers must not be entered twice at a time


class FastAttention(PagedAttention):
    """For pools of float32 and bfloat16 on the CPU. Parts of one row that are not observed must stand first; only
    they may accumulate.

    Raises:
        UnsupportedAttention: another pool.
    """

    def __init__(self, pool: BlockPool) -> None:
        if pool.shape.dtype not in (torch.float32, torch.bfloat16) or pool.shape.device.type != "cpu":
            raise UnsupportedAttention(f"no fast attention for {pool.shape.dtype} on {pool.shape.device}")
        super().__init__(pool)
        tensors = (pool.keys, pool.values, pool.positions, pool.scores)
        self._pool = (*map(_as_numpy, tensors), pool.fill)

    def _begin(self) -> None:
        self._single = 0
        while self._single < len(self.parts) and _is_single(self.parts[self._single]):
            self._single += 1
        later = self.parts[self._single :]
        assert not any(_is_single(part) or part.accumulate for part in later), "parts of one row stand first"
        if not self._single:
            return
        sequences = [part.sequence for part in self.parts[: self._single]]
        size = self.pool.block_size
        own_block, self._offset = np.divmod(np.stack([s.own for s in sequences], axis=1), size)
        self._shared = np.stack([s.shared for s in sequences], axis=1)
        self._blocks = self._shared + own_block + 1
        columns = int(self._blocks.max())
        self._table = np.zeros((*self._blocks.shape, columns), np.int32)
        for index, sequence in enumerate(sequences):
            width = min(columns, sequence.table.shape[2])
            self._table[:, index, :, :width] = sequence.table[:, :, :width]
        self._position = np.array([s.position for s in sequences], np.int32)
        self._accumulate = np.array([part.accumulate for part in self.parts[: self._single]])

    def _attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        kv_heads, group, _, dim = query.shape
        single = self._single
        pieces = []
        if single:
            attended = self._attend_single(
                layer, query[:, :, :single], key[:, :single], value[:, :single], scaling
            )
            pieces.append(attended.to(query.dtype))
        start = single
        for part in self.parts[single:]:
            stretch = slice(start, start + part.rows)
            start += part.rows
            q, k, v = query[:, :, stretch], key[:, stretch], value[:, stretch]
            attended = self._attend_many(layer, part, q, k, v, scaling)
            self._write(layer, part, k, v)
            if part.observe:
                self._observe(layer, part, q, k, scaling)
            pieces.append(attended.permute(2, 0, 1, 3).reshape(part.rows, kv_heads * group, dim))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _attend_single(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        rows = query.permute(2, 0, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
        out = torch.empty_like(rows)
        with _compiled_code:
            attend(
                rows.numpy(),
                _as_numpy(key.transpose(0, 1).contiguous()),
                _as_numpy(value.transpose(0, 1).contiguous()),
                *self._pool,
                self._table[layer],
                self._blocks[layer],
                self._shared[layer],
                self._offset[layer],
                self._position,
                self._accumulate,
                np.float32(scaling),
                torch.get_num_threads(),
                out.numpy(),
            )
        return out.flatten(1, 2)

    def _attend_many(
        self, layer: int, part: Part, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Among themselves and to what was held before, merged by their sums of exponentials."""
        out, total = _flash(query, key, value, scaling, causal=True)
        past = self._past(layer, part)
        if not past:
            return out
        held, held_total = torch.zeros_like(out), torch.full_like(total, float("-inf"))
        for heads, keys, values in past:
            held[heads], held_total[heads] = _flash(query[heads], keys, values, scaling, causal=False)
        share = torch.sigmoid(held_total - total)[..., None]
        return torch.lerp(out.float(), held.float(), share).to(out.dtype)

    def _past(self, layer: int, part: Part) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Keys and values `[heads, entries, head_dim]` held before this batch, for heads that hold equally many in
        equally filled blocks at once."""
        sequence, size = part.sequence, self.pool.block_size
        blocks = -(-sequence.own[layer] // size) + sequence.shared[layer]
        ids = sequence.table[layer, :, : blocks.max()]
        fills = np.where(np.arange(blocks.max()) < blocks[:, None], self.pool.fill[ids], 0)
        if not fills.any():
            return []
        if (fills == fills[0]).all():
            return [self._gather(slice(None), ids, fills[0])]
        return [
            self._gather(slice(head, head + 1), ids[head : head + 1, :count], fills[head, :count])
            for head, count in enumerate(blocks)
            if fills[head].any()
        ]

    def _gather(
        self, heads: slice, ids: np.ndarray, fills: np.ndarray
    ) -> tuple[slice, torch.Tensor, torch.Tensor]:
        size = self.pool.block_size
        inside = None
        if (fills < size).any():
            inside = torch.from_numpy((np.arange(size) < fills[:, None]).ravel().nonzero()[0])
        index = torch.from_numpy(ids.ravel())
        found = []
        for store in (self.pool.keys, self.pool.values):
            entries = store.index_select(0, index).view(len(ids), -1, store.shape[-1])
            found.append(entries if inside is None else entries.index_select(1, inside))
        return heads, found[0], found[1]


def _is_single(part: Part) -> bool:
    return part.rows == 1 and not part.observe


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The same memory; 16-bit numbers as uint16, for numpy knows no bfloat16."""
    array: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention `[heads, group, rows, head_dim]` of `query` over `key` and `value` `[heads, entries, head_dim]`,
    and the logarithm of its sum of exponentials `[heads, group, rows]`."""
    shape = (*query.shape[:2], *key.shape[1:])
    out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key[:, None].expand(shape), value[:, None].expand(shape), 0.0, causal, scale=scaling
    )
    return out, total
