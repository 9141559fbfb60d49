"""Tokens on their way into a sequence, a chunk at a time."""

from collections.abc import Callable

import torch

from refdesk.memory.attention import Part
from refdesk.memory.eviction import evict
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions
from refdesk.memory.sequence import Sequence
from refdesk.reader.adapter import Adapter


class Reading:
    """`tokens` that go into `sequence`; `finished` gets the logits `[1, vocabulary]` behind the last of them, or
    with `keep_all` those behind each, when they are in.

    `memory` thins the sequence as it says, `total` being the tokens that a rate divides, `parts` among how many
    stretches a budget is divided, and `in_front` tokens that others hold and no budget is for. `generated`: the
    token is one that was generated. `adapter`: what is added to the model that reads.
    """

    def __init__(
        self,
        sequence: Sequence,
        tokens: tuple[int, ...],
        finished: Callable[[torch.Tensor], None],
        *,
        memory: MemoryOptions = KEEP_EVERYTHING,
        total: int = 0,
        parts: int = 1,
        in_front: int = 0,
        generated: bool = False,
        keep_all: bool = False,
        adapter: Adapter | None = None,
    ) -> None:
        self.sequence = sequence
        self._tokens = tokens
        self._finished = finished
        self._memory = memory
        self._budget = self._memory.budget_for(total, parts) + in_front
        self.generated = generated
        self.adapter = adapter
        self._keep_all = keep_all
        self._done = 0
        self._chunk = 0
        self._logits: list[torch.Tensor] = []

    @property
    def least(self) -> int:
        """The fewest tokens that must fit a chunk."""
        return 1 if self._memory.policy is None else self._memory.policy.window

    @property
    def left(self) -> int:
        """Tokens to read."""
        return len(self._tokens) - self._done

    def next_part(self, room: int, full: int) -> Part | None:
        """The next chunk of at most `room` tokens; None if they are too few. `full`: the size of a chunk where
        there is room enough.

        What is evicted must not depend on what else the engine does: the last chunk holds the whole window that
        the policy observes, and a policy that evicts between chunks always gets full ones.
        """
        policy = self._memory.policy
        if policy is None or self.generated:
            self._chunk = min(room, self.left)
            if policy is None:
                return Part(self.sequence, self._chunk) if self._chunk else None
            self._make_room()
            return Part(self.sequence, self._chunk, policy, accumulate=policy.accumulates)
        chunk = min(max(full, policy.window) if policy.while_reading else room, self.left)
        if 0 < self.left - chunk < policy.window:
            chunk = self.left - policy.window
        if not 0 < chunk <= room:
            return None
        self._chunk = chunk
        observe = policy.window > 0 and (chunk == self.left or policy.while_reading)
        return Part(self.sequence, chunk, policy, observe=observe)

    def chunk(self) -> tuple[int, ...]:
        """The tokens of the part that `next_part` gave."""
        return self._tokens[self._done : self._done + self._chunk]

    def kept_rows(self) -> range:
        """The rows of the part whose logits are needed."""
        if self._keep_all:
            return range(self._chunk)
        return range(self._chunk - 1, self._chunk) if self._chunk == self.left else range(0)

    def read(self, logits: torch.Tensor) -> None:
        """The part has been read; `logits` are those of `kept_rows`."""
        self._done += self._chunk
        self._logits.append(logits)
        policy = self._memory.policy
        if policy is not None and not self.generated and (not self.left or policy.while_reading):
            evict(self.sequence, policy, self._budget)
        if not self.left:
            self._finished(torch.cat(self._logits) if self._keep_all else logits)

    def _make_room(self) -> None:
        """Evict before another token would take more than a block a row above the budget."""
        policy, sequence = self._memory.policy, self.sequence
        if policy is None or not policy.while_decoding:
            return
        size = sequence.pool.block_size
        most = (-(-self._budget // size) + 1) * sequence.own.size
        if int(sequence.blocks.sum()) + sequence.missing(1) > most:
            evict(sequence, policy, self._budget)
