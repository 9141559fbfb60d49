"""A request on its way: what it has generated, and how it becomes text."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from refdesk.memory.options import KEEP_EVERYTHING
from refdesk.memory.runs import Run, RunKey
from refdesk.memory.sequence import Sequence
from refdesk.memory.unlimiformer import Recall
from refdesk.reader.abstention import Abstention
from refdesk.reader.detokenize import Detokenizer, StopFilter
from refdesk.reader.generation import NOTHING_HELD, FinishReason, Generation, GenerationRequest, MemoryUse
from refdesk.reader.model import ReaderModel
from refdesk.reader.reading import Reading, token_nll
from refdesk.reader.sampling import Sampler
from refdesk.reader.stream import Stream


class Job:
    """Reads its prompt behind its runs, scores the continuations asked for, then generates token by token.

    Touched by the engine's thread only, but for `cancelled`. `readings` are what it wants read next. `promised`:
    the most blocks of its own that it will hold from now on, once its prompt is read `promised_after`.
    """

    def __init__(self, request: GenerationRequest, model: ReaderModel, stream: Stream) -> None:
        self.request = request
        self.stream = stream
        self.cancelled = False
        self.submitted = perf_counter()
        self.admitted: float | None = None
        self.promised = self.promised_after = 0
        self.keys = run_keys(request)
        self._allotment = request.layout.own
        self.runs: dict[RunKey, Run] = {}
        self.run_hits = 0
        self.run_loads = 0
        self.run_misses = 0
        self.readings: list[Reading] = []
        self._sequence: Sequence | None = None
        self._recall: Recall | None = None
        self._forks: list[Sequence] = []
        self._read: float | None = None  # when the prompt was
        self._decode_started: float | None = None
        self._end_ids = model.end_ids
        self._generated: list[int] = []
        self._text: list[str] = []
        self._nll: dict[int, tuple[float, ...]] = {}
        self._held: tuple[NDArray[np.float32], ...] = ()
        self._withheld: tuple[float, ...] = ()  # of abstaining, nll by token
        self._peak_entries = self._peak_blocks = 0
        self._sampler = Sampler(request.temperature, request.top_p, request.seed)
        self._detokenizer = Detokenizer(model.tokenizer)
        self._stop = StopFilter(request.stop)

    def late(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return self.request.deadline_s is not None and now - self.submitted > self.request.deadline_s

    @property
    def sequences(self) -> list[Sequence]:
        """What owns blocks for it."""
        return self._forks + ([] if self._sequence is None else [self._sequence])

    def begin(self, sequence: Sequence) -> None:
        """Read the prompt into `sequence`, whose runs are in place, behind the memories that it attends to."""
        self._sequence = sequence
        if self.request.recall is not None:
            rotation = sequence.pool.rotation
            assert rotation is not None, "the engine refuses memories where it cannot turn"
            sequence.position += self.request.recall.width
            device = sequence.pool.keys.device
            self._recall = Recall(self.request.recall, rotation, sequence.position, device)
        self.readings = [
            Reading(
                sequence,
                self.request.token_ids,
                self._prompt_read,
                allotment=self._allotment,
                catalyst=self.request.catalyst,
                heads=self.request.heads,
                adapter=self.request.adapter,
                recall=self._recall,
            )
        ]

    def measure(self) -> None:
        """Take note of what is held now."""
        if self._sequence is not None:
            self._peak_entries = max(self._peak_entries, int(self._sequence.entries.sum()))
            self._peak_blocks = max(self._peak_blocks, int(self._sequence.blocks.sum()))

    def _prompt_read(self, logits: torch.Tensor) -> None:
        self._read = perf_counter()
        self.promised = self.promised_after
        self.readings = []
        self._held = self._held_shares()
        if self.request.collect is not None and not self._collected(self.request.collect):
            return
        behind = logits.clone()  # a view of one row would hold all the rows of its step
        for index, continuation in enumerate(self.request.continuations):
            self._score(continuation, behind, partial(self._scored, index, behind))
        if not self.request.continuations:  # else the last that is scored goes on
            self._begin_answer(behind)

    def _held_shares(self) -> tuple[NDArray[np.float32], ...]:
        """As in `Generation.held`, now."""
        if self.request.memory.policy is None:
            return ()
        if not self.request.passages:
            assert self._sequence is not None
            return (self._sequence.held_shares(),)
        by_tokens = {key.tokens: run.held for key, run in self.runs.items() if key.memory.policy is not None}
        return tuple(by_tokens[tokens] for tokens in self.request.passages)

    def _scored(self, index: int, behind: torch.Tensor, nll: tuple[float, ...]) -> None:
        self._nll[index] = nll
        if len(self._nll) == len(self.request.continuations):
            self._let_forks_go()
            self._begin_answer(behind)

    def _begin_answer(self, behind: torch.Tensor) -> None:
        """Answer behind the prompt, whose logits are `behind`; find out first whether to abstain, if that is asked
        for and in doubt."""
        self._decode_started = perf_counter()
        self.readings = []
        abstention = self.request.abstention
        if abstention is None or not abstention.matters(behind[0], self.request.temperature == 0):
            self._decode(behind)
        else:
            self._score(abstention.opening, behind, partial(self._weighed, abstention, behind))

    def _weighed(self, abstention: Abstention, behind: torch.Tensor, nll: tuple[float, ...]) -> None:
        """Abstain at once, or answer with what abstaining takes of the probability withheld."""
        self._let_forks_go()
        if not abstention.decided(nll):
            self._withheld = nll
            self._decode(behind)
            return
        ended: FinishReason | None = None
        for token_id in abstention.token_ids:
            if (ended := self._say(token_id)) is not None:
                break
        self.end(ended or "stop")

    def _collected(self, collect: Callable[[Sequence], None]) -> bool:
        """Whether who collects could. What goes wrong there is no matter of the other requests."""
        assert self._sequence is not None
        try:
            collect(self._sequence)
        except Exception as error:  # it belongs to whoever reads the stream
            self.fail(error)
            return False
        return True

    def _score(
        self, continuation: tuple[int, ...], behind: torch.Tensor, done: Callable[[tuple[float, ...]], None]
    ) -> None:
        """Read a continuation behind the prompt, whose logits are `behind`, in a sequence of its own that shares
        what the prompt left. Its last token need not be read. `done` gets the nll of each of its tokens."""
        *front, last = continuation
        reading: Reading | None = None

        def scored(logits: torch.Tensor) -> None:
            read = [] if reading is None else reading.nll
            done((*read, *token_nll(logits, (last,)).tolist()))

        if not front:
            scored(behind)
            return
        assert self._sequence is not None
        fork = Sequence(self._sequence.pool, [self._sequence], self._sequence.position)
        self._forks.append(fork)
        recall = None if self._recall is None else self._recall.silenced()
        reading = Reading(fork, tuple(front), scored, behind=behind, adapter=self.request.adapter, recall=recall)
        self.readings.append(reading)

    def _decode(self, logits: torch.Tensor) -> None:
        """Choose the next token, hand out the text it completes, and have it read unless the text has ended."""
        self.readings = []
        row = logits[0]
        if self._withheld:
            assert self.request.abstention is not None
            row = self.request.abstention.withhold(row, self._generated, self._withheld)
        token_id = self._sampler.pick(row)
        ended = self._say(token_id)
        if ended is not None:
            self.end(ended)
            return
        assert self._sequence is not None
        self.readings = [
            Reading(
                self._sequence,
                (token_id,),
                self._decode,
                allotment=self._allotment,
                generated=len(self._generated),
                adapter=self.request.adapter,
                recall=self._recall,
            )
        ]

    def _say(self, token_id: int) -> FinishReason | None:
        """Hand out the text that a token completes; why it was the last one, if it was."""
        self._generated.append(token_id)
        if token_id in self._end_ids:
            return "stop"
        piece, stopped = self._stop.push(self._detokenizer.push(token_id))
        self._put(piece)
        if stopped:
            return "stop"
        return "length" if len(self._generated) == self.request.max_new_tokens else None

    def end(self, reason: FinishReason) -> None:
        """Finish the stream and give the blocks back. The runs are still held."""
        now = perf_counter()
        self._put(self._stop.flush())
        admitted = self.admitted or now
        read = self._read or now
        decode_started = self._decode_started or now
        memory = self._memory_use()
        # Some only could not be told from others: which ones comes in no order.
        all_scored = len(self._nll) == len(self.request.continuations)
        self._release()
        self.stream.finish(
            Generation(
                text="".join(self._text),
                token_ids=tuple(self._generated),
                finish_reason=reason,
                prompt_tokens=self.request.prompt_tokens,
                completion_tokens=len(self._generated),
                queue_s=admitted - self.submitted,
                prefill_s=read - admitted,
                decode_s=now - decode_started,
                memory=memory,
                run_hits=self.run_hits,
                run_loads=self.run_loads,
                run_misses=self.run_misses,
                continuation_nll=tuple(nll for _, nll in sorted(self._nll.items())) if all_scored else (),
                score_s=decode_started - read,
                held=self._held,
                recall=self._recall,
            )
        )

    def fail(self, error: Exception) -> None:
        """End the stream with an error and give the blocks back."""
        self._release()
        self.stream.finish(error)

    def _memory_use(self) -> MemoryUse:
        self.measure()
        sequence = self._sequence
        if sequence is None:
            return NOTHING_HELD
        size = sequence.pool.block_bytes
        return MemoryUse(
            peak_entries=self._peak_entries,
            peak_bytes=self._peak_blocks * size,
            held_entries=int(sequence.entries.sum()),
            held_bytes=int(sequence.blocks.sum()) * size,
            freed_entries=sequence.freed + sum(run.freed for run in self.runs.values()),
            freed_bytes=(sequence.freed_blocks + sum(run.freed_blocks for run in self.runs.values())) * size,
        )

    def _release(self) -> None:
        self._let_forks_go()
        if self._sequence is not None:
            self._sequence.release()
            self._sequence = None
        self.readings = []

    def _let_forks_go(self) -> None:
        for fork in self._forks:
            fork.release()
        self._forks = []

    def _put(self, piece: str) -> None:
        if piece:
            self._text.append(piece)
            self.stream.put(piece)


def run_keys(request: GenerationRequest) -> tuple[RunKey, ...]:
    """Of the runs of a request: those in front, then the passages, none twice."""
    adapter = request.adapter.fingerprint if request.adapter else ""
    front: list[RunKey] = []
    for tokens in request.front:
        front.append(RunKey(tokens, front[-1] if front else None, adapter=adapter))
    thinned = request.memory.policy is not None
    memory, parts = (request.memory, len(set(request.passages))) if thinned else (KEEP_EVERYTHING, 1)
    heads = request.heads.fingerprint if request.heads else ""
    passages = [
        RunKey(tokens, front[-1] if front else None, memory, parts, adapter, heads, request.catalyst)
        for tokens in request.passages
    ]
    return tuple(dict.fromkeys(front + passages))
