"""Runs: what requests share. The entries of one text, read once, unchanged since, and counted by reference."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from refdesk.memory.allotment import Allotment
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions
from refdesk.memory.pool import BlockPool, Ids
from refdesk.memory.sequence import Counts, Sequence


@dataclass(frozen=True, eq=False)
class RunKey:
    """Everything that the entries of a run depend on, within one model: its tokens, the run it was read behind,
    how it was thinned, among how many texts a budget was divided, and the fingerprints of the adapter that read it
    and of the retaining heads that scored it (empty without), and the catalyst that did.

    Runs may stand behind runs in a chain of any length, so nothing here goes down a chain by recursion."""

    tokens: tuple[int, ...]
    behind: "RunKey | None" = None
    memory: MemoryOptions = KEEP_EVERYTHING
    parts: int = 1
    adapter: str = ""
    heads: str = ""
    catalyst: tuple[int, ...] = ()

    @property
    def allotment(self) -> Allotment:
        """How much of it may be held. What stands in front of it is no part of that, nor are its last tokens any
        different: a question stands behind."""
        return Allotment(self.memory, len(self.tokens), parts=self.parts, catalyst=len(self.catalyst))

    def __post_init__(self) -> None:
        hash(self)  # that of the run in front has been computed when this one is made

    @property
    def chain(self) -> "tuple[RunKey, ...]":
        """The runs that it was read behind, in the order in which they stand, and itself."""
        chain = [self]
        while (behind := chain[-1].behind) is not None:
            chain.append(behind)
        return tuple(reversed(chain))

    @property
    def digest(self) -> str:
        """The same in every process: of all of it, and of what it stands behind, in hexadecimal."""
        return sha256(repr([key._own for key in self.chain]).encode()).hexdigest()

    @cached_property
    def _own(self) -> tuple[Hashable, ...]:
        return (self.tokens, self.memory, self.parts, self.adapter, self.heads, self.catalyst)

    @cached_property
    def _hash(self) -> int:
        return hash((self._own, self.behind))

    def __hash__(self) -> int:
        return self._hash  # computed once: keys are long, and looked up at every step

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunKey) or hash(self) != hash(other):
            return False
        return [key._own for key in self.chain] == [key._own for key in other.chain]


@dataclass(eq=False)
class Run:
    """`table` `[layers, kv_heads, columns]`, of which `blocks` are in use with `entries` entries, both `[layers,
    kv_heads]`. `position`: of the token behind it. `freed`, `freed_blocks`: evicted when it was read. `held`: of
    each of its tokens, the share of layers and KV heads that hold its entry. `users`: sequences that hold it."""

    key: RunKey
    table: Ids
    blocks: Counts
    entries: Counts
    position: int
    freed: int
    freed_blocks: int
    held: NDArray[np.float32]
    users: int = 0

    @cached_property
    def shifts(self) -> Ids:
        """It stands where it was read."""
        return np.zeros_like(self.table)

    @cached_property
    def size(self) -> int:
        """How many blocks it has."""
        return int(self.blocks.sum())

    def ids(self) -> Ids:
        """Its blocks."""
        return self.table[np.arange(self.table.shape[2]) < self.blocks[..., None]]


class Runs:
    """Every run of a pool by its key. Runs that nobody uses stay, up to `limit` blocks in all, and go least
    recently used first, or as soon as somebody needs their blocks."""

    def __init__(self, pool: BlockPool, limit: int) -> None:
        self._pool = pool
        self._limit = limit
        self._runs: OrderedDict[RunKey, Run] = OrderedDict()

    def __contains__(self, key: RunKey) -> bool:
        return key in self._runs

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def blocks(self) -> int:
        """Blocks of all runs."""
        return sum(run.size for run in self._runs.values())

    @property
    def idle_blocks(self) -> int:
        """Blocks of runs that nobody uses: they can be had for the asking."""
        return sum(run.size for run in self._runs.values() if not run.users)

    def hold(self, key: RunKey) -> Run:
        """The run, which stays at least until it is let go. Raises KeyError if there is none."""
        run = self._runs[key]
        run.users += 1
        return run

    def let_go(self, run: Run) -> None:
        """One who held it does so no more."""
        run.users -= 1
        self._runs.move_to_end(run.key)
        self._trim()

    def add(self, key: RunKey, sequence: Sequence) -> Run:
        """Make a run of what `sequence` owns, which gives it up. Nobody holds it yet."""
        if key in self._runs:
            raise ValueError(f"there is such a run already: {key}")
        width = int(sequence.own_blocks.max(initial=0))
        column = np.minimum(sequence.shared[..., None] + np.arange(width), sequence.table.shape[2] - 1)
        run = Run(
            key=key,
            table=np.take_along_axis(sequence.table, column, axis=2),
            blocks=sequence.own_blocks,
            entries=sequence.own,
            position=sequence.position,
            freed=sequence.freed,
            freed_blocks=sequence.freed_blocks,
            held=sequence.held_shares(),
        )
        sequence.own_blocks = np.zeros_like(run.blocks)
        sequence.own = np.zeros_like(run.entries)
        self._runs[key] = run
        return run

    def drop_idle(self, blocks: int) -> None:
        """Give at least so many blocks back to the pool, if there are runs enough that nobody uses."""
        freed = 0
        for key, run in list(self._runs.items()):
            if freed >= blocks:
                return
            if not run.users:
                freed += run.size
                self._pool.give(run.ids())
                del self._runs[key]

    def ids(self) -> list[Ids]:
        """The blocks of each run."""
        return [run.ids() for run in self._runs.values()]

    def _trim(self) -> None:
        over = self.blocks - self._limit
        if over > 0:
            self.drop_idle(over)
