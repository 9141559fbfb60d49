"""What one sequence holds: a block table and a length for every layer and KV head."""

from collections.abc import Iterable
from itertools import repeat
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from refdesk.memory.pool import BlockPool, Ids

Counts = NDArray[np.int64]


class Held(Protocol):
    """Entries that others may read but not change: a run, or a sequence that stands still."""

    table: Ids

    @property
    def shifts(self) -> Ids: ...

    @property
    def blocks(self) -> Counts: ...

    @property
    def entries(self) -> Counts: ...


class Sequence:
    """The entries of one sequence: those of others in front, then its own.

    `table` `[layers, kv_heads, capacity]`: block ids in order; the first `shared` of each row belong to others,
    the next `own_blocks` to the sequence. Own blocks are full but for the last one. The length of every row may
    differ, which is what eviction is for; the order of entries within a row means nothing. All counts are
    `[layers, kv_heads]`.

    `shifts`, as `table`: how much further on than where they were read the entries of a block stand for this
    sequence. Others share them at other places, so keys stay as they are, and attention sees to it. `places`: all
    the shifts that there are, ascending from 0.

    `start`: the position of its first token. `position`: of the next one. `read`: how many tokens of its own it
    has read. `sources` `[layers, kv_heads, capacity]`: of which of them each own entry is; None as long as none
    has been evicted, and the n-th entry is of the n-th token.
    """

    def __init__(
        self, pool: BlockPool, behind: Iterable[Held] = (), position: int = 0, by: Iterable[int] | None = None
    ) -> None:
        """`behind` what others hold, each moved on `by` so many positions: not at all where that is not given."""
        self.pool = pool
        self.start = self.position = position
        shape = (pool.shape.layers, pool.shape.kv_heads)
        self.table: Ids = np.zeros((*shape, 8), np.int32)
        self.shifts: Ids = np.zeros_like(self.table)
        self.shared: Counts = np.zeros(shape, np.int64)
        self.shared_entries: Counts = np.zeros(shape, np.int64)
        self.own_blocks: Counts = np.zeros(shape, np.int64)
        self.own: Counts = np.zeros(shape, np.int64)
        self.freed = 0  # entries evicted so far, over all layers and heads
        self.freed_blocks = 0
        self.read = 0
        self.sources: Ids | None = None
        for held, shift in zip(behind, repeat(0) if by is None else by, strict=by is not None):
            self._share(held, shift)
        self.places: Ids = np.unique(np.append(self.shifts, np.int32(0)))

    def _share(self, held: Held, shift: int) -> None:
        self._make_room(int((self.shared + held.blocks).max()))
        column = np.arange(self.table.shape[2])
        source = np.arange(held.table.shape[2]) < held.blocks[..., None]
        target = (column >= self.shared[..., None]) & (column < (self.shared + held.blocks)[..., None])
        self.table[target] = held.table[source]
        self.shifts[target] = held.shifts[source] + shift
        self.shared = self.shared + held.blocks
        self.shared_entries = self.shared_entries + held.entries

    @property
    def blocks(self) -> Counts:
        """Blocks in the table, those of others included."""
        return self.shared + self.own_blocks

    @property
    def entries(self) -> Counts:
        """Entries held, those of others included."""
        return self.shared_entries + self.own

    def own_ids(self) -> Ids:
        """The blocks that belong to this sequence."""
        return self.table[self._own_columns()]

    def missing(self, rows: int) -> int:
        """How many blocks `grow(rows)` would take."""
        return int(self._missing(rows).sum())

    def grow(self, rows: int) -> None:
        """Make room for `rows` more entries in every layer and head.

        Raises:
            OutOfBlocks: nothing has changed.
        """
        need = self._missing(rows)
        total = int(need.sum())
        if not total:
            return
        ids = self.pool.take(total)
        first = self.blocks
        self._make_room(int((first + need).max()))
        column = np.arange(self.table.shape[2])
        self.table[(column >= first[..., None]) & (column < (first + need)[..., None])] = ids
        self.own_blocks = self.own_blocks + need

    def slots(self, rows: int) -> NDArray[np.int64]:
        """Where the next `rows` entries go, as flat indices of the pool, `[layers, kv_heads, rows]`; room must
        have been made."""
        return self._at(self.own[..., None] + np.arange(rows))

    def latest_slots(self, rows: int) -> NDArray[np.int64]:
        """Where the `rows` entries that were written last are, if none has been evicted since, likewise."""
        return self._at(self.own[..., None] + np.arange(-rows, 0))

    def advance(self, rows: int) -> None:
        """`rows` more entries have been written in every layer and head."""
        size = self.pool.block_size
        grown = self.own + rows
        first = self.own // size
        for block in range(int((-(-grown // size) - first).max())):
            column = np.minimum(self.shared + first + block, self.table.shape[2] - 1)
            ids = np.take_along_axis(self.table, column[..., None], axis=2)[..., 0]
            filled = np.minimum(grown - (first + block) * size, size)
            self.pool.fill[ids[filled > 0]] = filled[filled > 0]
        if self.sources is not None:
            self.sources = _wide(self.sources, int(grown.max()))
            new = np.arange(self.read, self.read + rows, dtype=np.int32)
            np.put_along_axis(self.sources, self.own[..., None] + np.arange(rows), new[None, None], axis=2)
        self.read += rows
        self.own = grown
        self.position += rows

    def put(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold the next tokens, that were read elsewhere at these positions: `[layers, kv_heads, n, head_dim]`.

        Raises:
            OutOfBlocks: nothing has changed.
        """
        pool, rows = self.pool, keys.shape[2]
        self.grow(rows)
        slots = torch.from_numpy(self.slots(rows)).to(pool.keys.device)
        for store, entries in ((pool.keys, keys), (pool.values, values)):
            store.view(-1, pool.shape.head_dim)[slots] = entries.to(store.device)
        positions = torch.arange(self.position, self.position + rows, dtype=torch.int32)
        pool.positions.view(-1)[slots] = positions.to(slots.device)
        pool.scores.view(-1)[slots] = 0.0
        self.advance(rows)

    def copy(self, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[layers, kv_heads, n, head_dim]` of the own entries from `first` on, of which none has
        been evicted; both on the CPU."""
        slots = self.own_slots()[0][..., first:].to(self.pool.keys.device)
        width = self.pool.shape.head_dim
        return self.pool.keys.view(-1, width)[slots].cpu(), self.pool.values.view(-1, width)[slots].cpu()

    def cut(self, own: Counts) -> None:
        """Keep the first `own` own entries of every row; blocks behind them go back to the pool at once."""
        self.freed += int((self.own - own).sum())
        self.freed_blocks += self._keep(own)

    def forget(self, rows: int) -> None:
        """The last `rows` tokens, of which none has been evicted, were never read."""
        self._keep(self.own - rows)
        self.position -= rows
        self.read -= rows

    def release(self) -> None:
        """Give every own block back. What belongs to others stays theirs."""
        self.pool.give(self.own_ids())
        self.own_blocks = np.zeros_like(self.own_blocks)
        self.own = np.zeros_like(self.own)

    def own_slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The own entries as flat indices of the pool, `[layers, kv_heads, longest]`, and which of them exist;
        both on the CPU."""
        longest = int(self.own.max(initial=0))
        place = np.arange(longest)
        block, offset = np.divmod(place, self.pool.block_size)
        column = np.minimum(self.shared[..., None] + block, self.table.shape[2] - 1)
        ids = np.take_along_axis(self.table, column, axis=2).astype(np.int64)
        exists = place < self.own[..., None]
        return torch.from_numpy(np.where(exists, ids * self.pool.block_size + offset, 0)), torch.from_numpy(exists)

    def own_sources(self) -> Ids:
        """Of which of the tokens that it has read each own entry is, `[layers, kv_heads, longest]`; places behind
        the entries of a row mean nothing."""
        longest = int(self.own.max(initial=0))
        if self.sources is None:
            return np.tile(np.arange(longest, dtype=np.int32), (*self.own.shape, 1))
        return self.sources[..., :longest].copy()

    def held_shares(self) -> NDArray[np.float32]:
        """Of each token that it has read, the share of layers and KV heads that hold its entry, `[read]`."""
        if self.sources is None:
            return np.ones(self.read, np.float32)
        sources = self.own_sources()
        exists = np.arange(sources.shape[2]) < self.own[..., None]
        held = np.bincount(sources[exists], minlength=self.read)
        return (held / self.own.size).astype(np.float32)

    def held_slots(self, layer: int, head: int) -> NDArray[np.int64]:
        """Every entry of one row, those of others included, as flat indices of the pool."""
        size = self.pool.block_size
        ids = self.table[layer, head, : self.blocks[layer, head]].astype(np.int64)
        inside = np.arange(size) < self.pool.fill[ids][:, None]
        flat: NDArray[np.int64] = (ids[:, None] * size + np.arange(size))[inside]
        return flat

    def held_shifts(self, layer: int, head: int) -> NDArray[np.int64]:
        """Of each of them, how much further on it stands than where it was read."""
        count = self.blocks[layer, head]
        fill = self.pool.fill[self.table[layer, head, :count]]
        return np.repeat(self.shifts[layer, head, :count], fill).astype(np.int64)

    def _keep(self, own: Counts) -> int:
        """Keep so many own entries of every row; how many blocks went back to the pool."""
        keep = -(-own // self.pool.block_size)
        column = np.arange(self.table.shape[2])
        first, last = (self.shared + keep)[..., None], self.blocks[..., None]
        gone = self.table[(column >= first) & (column < last)]
        self.own, self.own_blocks = own, keep
        self.pool.give(gone)
        ragged = own % self.pool.block_size
        tail = np.take_along_axis(self.table, np.maximum(self.blocks - 1, 0)[..., None], axis=2)[..., 0]
        self.pool.fill[tail[ragged > 0]] = ragged[ragged > 0]
        return len(gone)

    def _at(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The flat indices of own entries by their places in the row, `[layers, kv_heads, n]`."""
        block, offset = np.divmod(place, self.pool.block_size)
        ids = np.take_along_axis(self.table, self.shared[..., None] + block, axis=2)
        return ids.astype(np.int64) * self.pool.block_size + offset

    def _missing(self, rows: int) -> Counts:
        size = self.pool.block_size
        missing: Counts = np.maximum(-(-(self.own + rows) // size) - self.own_blocks, 0)
        return missing

    def _own_columns(self) -> NDArray[np.bool_]:
        column = np.arange(self.table.shape[2])
        return (column >= self.shared[..., None]) & (column < self.blocks[..., None])

    def _make_room(self, columns: int) -> None:
        self.table, self.shifts = _wide(self.table, columns), _wide(self.shifts, columns)


def _wide(table: Ids, columns: int) -> Ids:
    """The table `[layers, kv_heads, capacity]` with room for so many columns; twice as many where it must grow."""
    short = columns - table.shape[2]
    return table if short <= 0 else np.pad(table, ((0, 0), (0, 0), (0, max(short, table.shape[2]))))
