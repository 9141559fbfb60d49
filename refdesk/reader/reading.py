"""Tokens on their way into a sequence, a chunk at a time."""

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy, pad

from refdesk.memory.allotment import Allotment
from refdesk.memory.attention import Part
from refdesk.memory.eviction import evict
from refdesk.memory.options import KEEP_EVERYTHING
from refdesk.memory.policy import EvictionPolicy
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.memory.sequence import Sequence
from refdesk.memory.unlimiformer import Recall
from refdesk.reader.adapter import Adapter

_HELD_WHOLE = Allotment(KEEP_EVERYTHING, 0)


class Reading:
    """`tokens` that go into `sequence`; `finished` gets the logits `[1, vocabulary]` behind the last of them when
    they are in. `behind`: those in front of the first; then `nll` says of each token how little it was expected.

    `allotment`: how much of them, or of a text that they are generated behind, is held; its policy thins all but
    the local ones as they come. `generated`: how many tokens have been, these among them; 0 for a text. `catalyst`
    and `heads` are what the policy asks for. `adapter`: what is added to the model that reads. `recall`: memories
    that are attended to besides.
    """

    def __init__(
        self,
        sequence: Sequence,
        tokens: tuple[int, ...],
        finished: Callable[[torch.Tensor], None],
        *,
        allotment: Allotment = _HELD_WHOLE,
        generated: int = 0,
        catalyst: tuple[int, ...] = (),
        heads: RetainingHeads | None = None,
        behind: torch.Tensor | None = None,
        adapter: Adapter | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.sequence = sequence
        self._recall = recall
        self._tokens = tokens
        self._finished = finished
        self._policy = allotment.memory.policy
        self._room = allotment.room(generated)
        self._thinned = max(len(tokens) - allotment.local, 0)  # tokens in front of the local ones
        self.generated = generated > 0
        self._catalyst = catalyst
        self._heads = heads
        self._scored = behind is not None
        self.adapter = adapter
        self._done = 0
        self._chunk: tuple[int, ...] = ()
        self._behind = behind  # what is done, where likelihoods are asked for
        self.nll: list[float] = []

    @property
    def least(self) -> int:
        """The fewest tokens that must fit a chunk."""
        return 1 if self._policy is None else self._policy.window

    @property
    def left(self) -> int:
        """Tokens to read."""
        return len(self._tokens) - self._done

    @property
    def _thinning(self) -> EvictionPolicy | None:
        """The policy, if what comes next may be evicted as the text is read."""
        return None if self.generated or self._done >= self._thinned else self._policy

    def next_part(self, room: int, full: int) -> Part | None:
        """The next chunk of at most `room` tokens; None if they are too few. `full`: the size of a chunk where
        there is room enough; fewer where many far entries are looked at. A catalyst's tokens come besides.

        What is evicted must not depend on what else the engine does: the last chunk holds the whole window that
        the policy observes, and a policy that evicts between chunks always gets full ones.
        """
        policy = self._thinning
        if policy is None:
            rows = room if self._recall is None else min(room, self._recall.rows)
            self._chunk = self._tokens[self._done : self._done + rows]
            if self._policy is None or not self.generated:
                return Part(self.sequence, len(self._chunk), recall=self._recall) if self._chunk else None
            self._make_room(self._policy)
            return Part(self.sequence, 1, self._policy, accumulate=self._policy.accumulates)
        left = self._thinned - self._done
        rows = min(max(full, policy.window) if policy.while_reading else room, left)
        if 0 < left - rows < policy.window:
            rows = left - policy.window
        if not 0 < rows <= room:
            return None
        self._chunk = self._tokens[self._done : self._done + rows]
        aside = len(self._catalyst)
        window = policy.window if rows == left or policy.while_reading else 0
        return Part(self.sequence, rows + aside, policy, observe=aside or window, heads=self._heads)

    def chunk(self) -> tuple[int, ...]:
        """The tokens of the part that `next_part` gave."""
        return self._chunk + (self._catalyst if self._thinning else ())

    def kept_rows(self) -> range:
        """The rows of the part whose logits are needed."""
        rows = len(self._chunk)
        if self._scored or (self._thinning is not None and self._thinning.novel):
            return range(rows)
        return range(rows - 1, rows) if rows == self.left else range(0)

    def read(self, logits: torch.Tensor) -> None:
        """The part has been read; `logits` are those of `kept_rows`."""
        policy = self._thinning
        self._done += len(self._chunk)
        if policy is not None:
            self._thin(policy, logits)
        if self._scored:
            self.nll += self._chunk_nll(logits).tolist()
        if not self.left:
            self._finished(logits[-1:])

    def _thin(self, policy: EvictionPolicy, logits: torch.Tensor) -> None:
        self.sequence.forget(len(self._catalyst))
        if policy.novel:
            self._note_novelty(logits)
        last = self._done == self._thinned
        if last or policy.while_reading:
            evict(self.sequence, policy, self._room, last=last)

    def _note_novelty(self, logits: torch.Tensor) -> None:
        """Of the chunk that has been read: its negative log-likelihood, in view of what was held."""
        slots = torch.from_numpy(self.sequence.latest_slots(len(self._chunk))).to(logits.device)
        self.sequence.pool.novelty.view(-1)[slots] = self._chunk_nll(logits)

    def _chunk_nll(self, logits: torch.Tensor) -> torch.Tensor:
        """Of each token of the chunk that has been read. What nothing stands in front of is expected by nobody."""
        if self._behind is None:
            nll = pad(token_nll(logits[:-1], self._chunk[1:]), (1, 0), value=float("inf"))
        else:
            nll = token_nll(torch.cat([self._behind, logits[:-1]]), self._chunk)
        self._behind = logits[-1:].clone()  # a view of one row would hold all the rows of its step
        return nll

    def _make_room(self, policy: EvictionPolicy) -> None:
        """Evict before another token would take more than a block a row above the budget."""
        if not policy.while_decoding:
            return
        sequence = self.sequence
        most = (-(-self._room // sequence.pool.block_size) + 1) * sequence.own.size
        if int(sequence.own_blocks.sum()) + sequence.missing(1) > most:
            evict(sequence, policy, self._room)


def token_nll(logits: torch.Tensor, tokens: tuple[int, ...]) -> torch.Tensor:
    """How little `tokens` are expected by the `logits` `[n, vocabulary]` in front of each: their negative
    log-likelihoods `[n]` in nats, float32."""
    return cross_entropy(
        logits.float(), torch.tensor(tokens, dtype=torch.int64, device=logits.device), reduction="none"
    )
