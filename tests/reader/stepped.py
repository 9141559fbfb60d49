"""A scheduler whose steps are the test's, and what it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from refdesk.memory.kept_runs import KeptRuns
from refdesk.memory.pool import BlockPool
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.reader.forward import Forward, cache_shape
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.job import Job
from refdesk.reader.model import ReaderModel
from refdesk.reader.scheduler import Scheduler
from refdesk.reader.stream import Stream

SLOTS = 6  # 3 layers of 2 KV heads
TOKEN_BYTES = SLOTS * (2 * 16 * 4 + 12)  # with what is noted of an entry


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    """Any text, of the vocabulary without its marks."""
    return tuple(torch.randint(3, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def made_heads() -> RetainingHeads:
    """Of the tiny models' shape, untrained."""
    generator = torch.Generator().manual_seed(4)
    down, up = (torch.randn(size, generator=generator) for size in ((3, 128, 8), (3, 8, 2)))
    return RetainingHeads("random", down, up)


@dataclass
class Stepped:
    """A scheduler whose steps are the test's."""

    model: ReaderModel
    pool: BlockPool
    scheduler: Scheduler

    def add(self, request: GenerationRequest) -> Job:
        self.scheduler.check_fits(request)
        job = Job(request, self.model, Stream(lambda stream: None))
        self.scheduler.add(job)
        return job

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.scheduler.step()
            self.scheduler.check_integrity()

    def finish(self) -> None:
        for _ in range(5000):
            if self.scheduler.idle:
                return
            self.step()
        raise AssertionError("somebody waits for ever")

    @property
    def run_blocks(self) -> int:
        return sum(len(ids) for ids in self.scheduler._runs.ids())


@contextmanager
def stepped(
    model: ReaderModel, chunk_tokens: int = 24, tokens: int = 4000, kept: KeptRuns | None = None
) -> Iterator[Stepped]:
    """With memory for so many `tokens`."""
    pool = BlockPool(cache_shape(model), SLOTS * -(-tokens // 16))
    forward = Forward(model, pool)
    try:
        yield Stepped(model, pool, Scheduler(pool, forward, chunk_tokens, kept))
    finally:
        forward.close()
