"""The same attention as the reference, fast on CPUs: a kernel that reads blocks in place where a sequence has one
row, matrix products over gathered blocks where it has more."""

from threading import Lock

import numpy as np
import torch

from refdesk.memory.attention import PagedAttention, Part
from refdesk.memory.bfloat16 import as_numpy
from refdesk.memory.decode_kernel import attend
from refdesk.memory.errors import UnsupportedAttention
from refdesk.memory.pool import BlockPool

_TILE = 128  # rows; what they attend with stays in the cache
_STEP = (
    32  # rows and entries are padded to multiples: kernels are made for each size, and found made if they are few
)

_compiled_code = Lock()  # one of numba's threading layers must not be entered twice at a time


class FastAttention(PagedAttention):
    """For pools of float32 and bfloat16 on the CPU. Single parts must stand first; only they may accumulate.

    Raises:
        UnsupportedAttention: another pool.
    """

    def __init__(self, pool: BlockPool) -> None:
        if pool.shape.dtype not in (torch.float32, torch.bfloat16) or pool.shape.device.type != "cpu":
            raise UnsupportedAttention(f"no fast attention for {pool.shape.dtype} on {pool.shape.device}")
        super().__init__(pool)
        tensors = (pool.keys, pool.values, pool.positions, pool.scores)
        self._pool = (*map(as_numpy, tensors), pool.fill)

    def _begin(self) -> None:
        self._single = 0
        while self._single < len(self.parts) and self.parts[self._single].single:
            self._single += 1
        later = self.parts[self._single :]
        assert not any(part.single or part.accumulate for part in later), "parts of one row stand first"
        if not self._single:
            return
        sequences = [part.sequence for part in self.parts[: self._single]]
        size = self.pool.block_size
        own_block, self._offset = np.divmod(np.stack([s.own for s in sequences], axis=1), size)
        self._shared = np.stack([s.shared for s in sequences], axis=1)
        self._blocks = self._shared + own_block + 1
        columns = int(self._blocks.max())
        self._table = np.zeros((*self._blocks.shape, columns), np.int32)
        self._moved = np.zeros_like(self._table)
        places = np.zeros((len(sequences), max(len(sequence.places) for sequence in sequences)), np.int32)
        for index, sequence in enumerate(sequences):
            width = min(columns, sequence.table.shape[2])
            self._table[:, index, :, :width] = sequence.table[:, :, :width]
            if len(sequence.places) > 1:
                shifts = sequence.shifts[:, :, :width]
                self._moved[:, index, :, :width] = np.searchsorted(sequence.places, shifts)
                places[index, : len(sequence.places)] = sequence.places
        self._cos, self._sin = self._back(places)
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
            if part.recall is not None:
                self._write(layer, part, q, k, v)
                attended = self._attend_with_memories(layer, part, q, part.recall, scaling)
            else:
                attended = self._attend_many(layer, part, q, k, v, scaling)
                self._write(layer, part, q, k, v)
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
                as_numpy(key.transpose(0, 1).contiguous()),
                as_numpy(value.transpose(0, 1).contiguous()),
                *self._pool,
                self._table[layer],
                self._moved[layer],
                self._blocks[layer],
                self._shared[layer],
                self._offset[layer],
                self._position,
                self._accumulate,
                np.float32(scaling),
                self._cos,
                self._sin,
                torch.get_num_threads(),
                out.numpy(),
            )
        return out.flatten(1, 2)

    def _attend_many(
        self, layer: int, part: Part, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        extra = -part.rows % _STEP  # behind the rows, where none of them can see
        query, key, value = (torch.nn.functional.pad(one, (0, 0, 0, extra)) for one in (query, key, value))
        out = torch.empty_like(query)
        for heads, ids, fills, shifts in self._stretches(layer, part):
            unseen = -int(fills.sum()) % _STEP
            keys = self._gather(self.pool.keys, ids, fills, unseen, key[heads])
            if shifts.any():
                held = slice(unseen, keys.shape[1] - key.shape[1])
                keys[:, held] = self._moved_on(keys[:, held], np.repeat(shifts, fills))
            values = self._gather(self.pool.values, ids, fills, unseen, value[heads])
            _attend_tiles(query[heads], keys, values, unseen, scaling, out[heads])
        return out[:, :, : part.rows]

    def _back(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine, `[..., pairs]`, that turn queries back instead of turning keys on."""
        if self.pool.rotation is None:
            return np.ones((*places.shape, 0), np.float32), np.zeros((*places.shape, 0), np.float32)
        cos, sin = self.pool.rotation.angles(-torch.from_numpy(places))
        return cos.numpy(), sin.numpy()

    def _stretches(self, layer: int, part: Part) -> list[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Heads, the ids `[heads, blocks]` of the blocks that they held before this batch, how many entries are in
        each `[blocks]`, and how much further on they stand: all heads at once if they are alike in that."""
        sequence, size = part.sequence, self.pool.block_size
        blocks = -(-sequence.own[layer] // size) + sequence.shared[layer]
        ids = sequence.table[layer, :, : blocks.max()]
        fills = np.where(np.arange(blocks.max()) < blocks[:, None], self.pool.fill[ids], 0)
        shifts = sequence.shifts[layer, :, : blocks.max()]
        if (fills == fills[0]).all() and (shifts == shifts[0]).all():
            return [(slice(None), ids, fills[0], shifts[0])]
        return [
            (slice(head, head + 1), ids[head : head + 1, :count], fills[head, :count], shifts[head, :count])
            for head, count in enumerate(blocks)
        ]

    def _gather(
        self, store: torch.Tensor, ids: np.ndarray, fills: np.ndarray, unseen: int, new: torch.Tensor
    ) -> torch.Tensor:
        """`unseen` entries of padding, those of the blocks, and `new` `[heads, rows, head_dim]` behind them."""
        if not fills.any():
            return new
        size = self.pool.block_size
        entries = store.index_select(0, torch.from_numpy(ids.ravel())).view(len(ids), -1, store.shape[-1])
        if (fills < size).any():
            inside = (np.arange(size) < fills[:, None]).ravel().nonzero()[0]
            entries = entries.index_select(1, torch.from_numpy(inside))
        return torch.cat([new.new_zeros(len(ids), unseen, new.shape[-1]), entries, new], dim=1)


def _attend_tiles(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, unseen: int, scaling: float, out: torch.Tensor
) -> None:
    """Causal attention of the last rows: `query` and `out` `[heads, group, rows, head_dim]` over `key` and `value`
    `[heads, entries, head_dim]`, the rows' own entries last. The first `unseen` entries are nobody's.

    Plain matrix products over tiles of rows: in bfloat16 three times as fast as torch's flash attention for CPUs
    (docs/results.md).
    """
    heads, group, rows, dim = query.shape
    before = key.shape[1] - rows
    later = torch.full((_TILE, _TILE), float("-inf"), dtype=query.dtype).triu(1)
    unused = query.new_empty(1, 1, 1)
    for first in range(0, rows, _TILE):
        count = min(_TILE, rows - first)
        seen = before + first + count
        tile = query[:, :, first : first + count].reshape(heads, group * count, dim)
        logits = torch.baddbmm(unused, tile, key[:, :seen].mT, beta=0, alpha=scaling)
        logits.view(heads, group, count, seen)[..., before + first :] += later[:count, :count]
        logits[..., :unseen] = float("-inf")
        attended = torch.bmm(logits.softmax(-1), value[:, :seen])
        out[:, :, first : first + count] = attended.view(heads, group, count, dim)
