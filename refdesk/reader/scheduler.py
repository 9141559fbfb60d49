"""Who runs when: admission under the memory ceiling, shared runs, and what goes into the next forward."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import torch

from refdesk.memory.attention import Part
from refdesk.memory.kept_runs import Entries, KeptRuns
from refdesk.memory.pool import BlockPool
from refdesk.memory.runs import RunKey, Runs
from refdesk.memory.sequence import Sequence
from refdesk.reader.errors import MemoryTooSmall
from refdesk.reader.forward import Forward
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.job import Job, run_keys
from refdesk.reader.reading import Reading


@dataclass(eq=False)
class _RunInWork:
    """A run that is being read, or is about to be, and the jobs that wait for it. `missed`: the one that found it
    was not there."""

    key: RunKey
    promised: int
    missed: Job
    waiting: list[Job] = field(default_factory=list)
    reading: Reading | None = None


class Scheduler:
    """One step at a time: `step()` reads the next chunk or token of everybody, in one forward.

    A job is admitted, in the order they came, when the most it can ever hold fits beside what the others were
    promised. So nobody who has begun is ever thrown out, and memory never exceeds the pool.

    A run that is `kept` somewhere is taken from there instead of being read.
    """

    def __init__(self, pool: BlockPool, forward: Forward, chunk_tokens: int, kept: KeptRuns | None = None) -> None:
        self._pool = pool
        self._kept = kept
        self._forward = forward
        self._chunk_tokens = chunk_tokens
        self._runs = Runs(pool, limit=pool.blocks // 2)
        self._in_work: dict[RunKey, _RunInWork] = {}
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._running)

    def most_blocks(self, request: GenerationRequest) -> int:
        """The most blocks that the request and its runs will ever take."""
        return max(self._promises(request)) + sum(map(self._run_blocks, run_keys(request)))

    def check_fits(self, request: GenerationRequest) -> None:
        """Raise MemoryTooSmall if the request does not fit the pool even with nobody else in it."""
        needed = self.most_blocks(request)
        if needed > self._pool.blocks:
            size = self._pool.block_bytes
            raise MemoryTooSmall(needed * size, self._pool.blocks * size)

    def add(self, job: Job) -> None:
        """Queue a job."""
        self._waiting.append(job)

    def step(self) -> None:
        """End what is cancelled or late, admit who fits, and run one forward."""
        self._end_some()
        self._admit()
        self._begin_runs()
        self._begin_prompts()
        readings = self._chosen()
        if readings:
            self._read(readings)
        for job in [job for job in self._running if job.stream.done]:
            self._leave(job)
        if self.idle:
            self.check_integrity()

    def fail_all(self, error: Exception) -> None:
        """Something went wrong in a forward: whoever ran gets the error, whoever waits is served on."""
        for job in list(self._running):
            if not job.stream.done:
                job.fail(error)
            self._leave(job)

    def end_all(self) -> None:
        """Cancel everybody."""
        for job in [*self._running, *self._waiting]:
            job.cancelled = True
        self._end_some()

    def check_integrity(self) -> None:
        """Raise AssertionError if a block has been lost or is owned twice."""
        sequences = [sequence for job in self._running for sequence in job.sequences]
        sequences += [run.reading.sequence for run in self._in_work.values() if run.reading is not None]
        self._pool.check_integrity([*self._runs.ids(), *(sequence.own_ids() for sequence in sequences)])

    # Admission.

    def _end_some(self) -> None:
        now = perf_counter()
        for job in [*self._running, *self._waiting]:
            if job.cancelled or job.late(now):
                job.end("cancelled" if job.cancelled else "deadline")
                if job in self._running:
                    self._leave(job)
                else:
                    self._waiting.remove(job)

    def _admit(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            keys = job.keys
            reading, after = self._promises(job.request)
            promise = max(reading, after)
            missing = {key for key in keys if key not in self._runs and key not in self._in_work}
            # Held at once, so that they do not count as idle.
            held = {key: self._runs.hold(key) for key in keys if key in self._runs}
            if promise + sum(map(self._run_blocks, missing)) > self._unpromised():
                for run in reversed(held.values()):
                    self._runs.let_go(run)
                return
            self._waiting.popleft()
            self._running.append(job)
            job.admitted = perf_counter()
            job.promised, job.promised_after = promise, after
            job.run_misses = len(missing)
            job.run_hits = len(keys) - len(missing)
            job.runs = held
            for key in keys:
                if key not in self._runs:
                    in_work = self._in_work.setdefault(key, _RunInWork(key, self._run_blocks(key), job))
                    in_work.waiting.append(job)

    def _unpromised(self) -> int:
        """Blocks that are free, or can be, and that nobody has been promised."""
        promised = sum(job.promised - _owned(job.sequences) for job in self._running)
        for run in self._in_work.values():
            promised += run.promised - (0 if run.reading is None else _owned([run.reading.sequence]))
        return self._pool.free + self._runs.idle_blocks - promised

    def _promises(self, request: GenerationRequest) -> tuple[int, int]:
        """The most blocks that a job will own while it reads, and afterwards, its continuations included."""
        slots, size = self._pool.shape.slots, self._pool.block_size
        reading, after = request.layout.own.blocks(slots, size, request.max_new_tokens, self._chunk_tokens)
        forks = sum(slots * -(-(len(tokens) - 1) // size) for tokens in request.scored)
        return reading, after + forks

    def _leave(self, job: Job) -> None:
        """A job has ended: it needs nothing any more."""
        self._running.remove(job)
        for key in reversed(job.keys):  # so that no run goes before those that are behind it, of use only with it
            if key in job.runs:
                self._runs.let_go(job.runs[key])
        for in_work in list(self._in_work.values()):
            if job in in_work.waiting:
                in_work.waiting.remove(job)
                if not in_work.waiting:
                    del self._in_work[in_work.key]
                    if in_work.reading is not None:
                        in_work.reading.sequence.release()

    # Runs.

    def _run_blocks(self, key: RunKey) -> int:
        """The most blocks that a run will own while it is read."""
        reading, _ = key.allotment.blocks(self._pool.shape.slots, self._pool.block_size, 0, self._chunk_tokens)
        return reading

    def _begin_runs(self) -> None:
        """Begin with the runs in front of which all is there. In a step about as many tokens are loaded as it may
        read, the last run whole: the others wait little longer than they do for a chunk."""
        room = self._chunk_tokens
        for in_work in list(self._in_work.values()):
            key = in_work.key
            if in_work.reading is not None or not (key.behind is None or key.behind in self._runs):
                continue
            if room <= 0:
                return
            entries = None if self._kept is None else self._kept.find(key)
            if entries is None:
                in_work.reading = self._run_reading(in_work)
            else:
                room -= len(key.tokens)
                self._load(in_work, entries)

    def _begin_prompts(self) -> None:
        """Begin with the prompts whose runs are there."""
        for job in self._running:
            if not job.sequences and len(job.runs) == len(job.keys):
                job.begin(self._behind_runs(job))

    def _behind_runs(self, job: Job) -> Sequence:
        """A sequence behind the runs of a job; in line, each is moved on behind the one in front of it."""
        runs = [job.runs[key] for key in job.keys]
        by: list[int] = []
        position = 0
        for run in runs:
            start = 0 if run.key.behind is None else job.runs[run.key.behind].position
            by.append(position - start if job.request.in_line else 0)
            position = max(position, run.position + by[-1])
        return Sequence(self._pool, runs, position, by)

    def _load(self, in_work: _RunInWork, entries: Entries) -> None:
        """Make a run of what was kept of it."""
        sequence = self._run_sequence(in_work)
        self._free(sequence.missing(len(in_work.key.tokens)))
        try:
            sequence.put(*entries)
        except BaseException:
            sequence.release()
            raise
        in_work.missed.run_misses -= 1
        in_work.missed.run_loads += 1
        self._add_run(in_work, sequence)

    def _run_sequence(self, in_work: _RunInWork) -> Sequence:
        """For the run, behind those that stand in front of it."""
        behind = [in_work.waiting[0].runs[front] for front in in_work.key.chain[:-1]]
        return Sequence(self._pool, behind, behind[-1].position if behind else 0)

    def _add_run(self, in_work: _RunInWork, sequence: Sequence) -> None:
        """It is whole: whoever waits for it holds it."""
        self._runs.add(in_work.key, sequence)
        del self._in_work[in_work.key]
        for job in in_work.waiting:
            job.runs[in_work.key] = self._runs.hold(in_work.key)

    def _run_reading(self, in_work: _RunInWork) -> Reading:
        key, request = in_work.key, in_work.waiting[0].request
        sequence = self._run_sequence(in_work)
        return Reading(
            sequence,
            key.tokens,
            lambda logits: self._add_run(in_work, sequence),
            allotment=key.allotment,
            catalyst=key.catalyst,
            heads=request.heads if key.heads else None,
            adapter=request.adapter,
        )

    # One forward.

    def _chosen(self) -> list[tuple[Reading, Part]]:
        """What the next forward reads: every token that was generated, and chunks of prompts in the order of
        admission as long as there is room. Parts of one row stand first."""
        room = self._chunk_tokens
        chosen: list[tuple[Reading, Part]] = []
        for reading in self._wanted():
            if reading.generated:
                part = reading.next_part(1, 1)
            else:
                # The first chunk of a step is never refused, whatever its policy must see at once.
                first = room == self._chunk_tokens
                part = reading.next_part(max(room, reading.least) if first else room, self._chunk_tokens)
                room = max(room - (0 if part is None else part.rows), 0)  # the first may have taken more
            if part is not None:
                chosen.append((reading, part))
        return sorted(chosen, key=lambda pair: not pair[1].single)

    def _wanted(self) -> Iterator[Reading]:
        """All that could be read now, in the order of admission; a run counts as that of the first who waits."""
        for job in self._running:
            for run in self._in_work.values():
                if run.waiting[0] is job and run.reading is not None:
                    yield run.reading
            yield from job.readings

    def _read(self, chosen: list[tuple[Reading, Part]]) -> None:
        parts = tuple(part for _, part in chosen)
        self._free(sum(part.sequence.missing(part.rows) for part in parts))
        tokens: list[int] = []
        keep: list[int] = []
        for reading, _ in chosen:
            keep.extend(len(tokens) + row for row in reading.kept_rows())
            tokens.extend(reading.chunk())
        logits = self._forward(parts, tokens, keep, [reading.adapter for reading, _ in chosen])
        for job in self._running:
            job.measure()
        counts = [len(reading.kept_rows()) for reading, _ in chosen]
        for (reading, _), rows in zip(chosen, torch.split(logits, counts), strict=True):
            reading.read(rows)

    def _free(self, blocks: int) -> None:
        """Have so many free; they have been promised, so what is in their way is runs that nobody uses."""
        if blocks > self._pool.free:
            self._runs.drop_idle(blocks - self._pool.free)


def _owned(sequences: list[Sequence]) -> int:
    return sum(int(sequence.own_blocks.sum()) for sequence in sequences)
