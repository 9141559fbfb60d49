"""What an answer cost, and how its seconds are counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from refdesk.reader.errors import DeadlineExceeded
from refdesk.reader.generation import NOTHING_HELD, MemoryUse
from refdesk.reader.shortening import READ_WHOLE, Shortening

_STEPS = ("retrieve", "compress", "prompt", "queue", "prefill", "decode", "cite")


Context = Literal["passages", "document", "attended", "none"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost. `seconds` has retrieve, compress, prompt, queue, prefill, decode, cite and total; steps
    that were not taken are 0, and the reading of a `reference` is in none. `context`: whether `passages` that were
    retrieved were read, those that attention found in whole documents of `document_tokens` (`document`), or the
    documents themselves were `attended` to. `reading`: how the passages were read.
    `run_hits` of the texts that are shared (the instructions, and passages read apart) were in memory, `run_loads`
    came from disk, `run_misses` had to be read. `adapter`: the name of the one that answered, or `none`. `memory`:
    the policy, and entries and bytes held, freed and at the peak, as in `generation.MemoryUse`. `compression`: of
    the passages."""

    prompt_tokens: int
    completion_tokens: int
    passages_retrieved: int
    passages_used: int
    passages_dropped: int
    seconds: Mapping[str, float]
    context: Context = "none"
    document_tokens: int = 0
    reading: Literal["together", "apart", "none"] = "none"
    run_hits: int = 0
    run_loads: int = 0
    run_misses: int = 0
    memory_policy: str = "none"
    adapter: str = "none"
    memory: MemoryUse = NOTHING_HELD
    compression: Shortening = READ_WHOLE


class Clock:
    """Seconds by step, and in all."""

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self._outside = 0.0
        self._seconds = dict.fromkeys(_STEPS, 0.0)

    def lap(self, step: str | None = None) -> None:
        """The time since the last lap goes to `step`, or to none."""
        now = perf_counter()
        if step is not None:
            self._seconds[step] += now - self._last
        self._last = now

    def leave_out(self, seconds: float) -> None:
        """These are no part of answering."""
        self._outside += seconds

    def elapsed(self) -> float:
        return perf_counter() - self._started

    def left(self, deadline_s: float | None) -> float | None:
        """What is left of it; None of none. Raises DeadlineExceeded where that is nothing."""
        if deadline_s is None:
            return None
        left = deadline_s - self.elapsed()
        if left <= 0:
            raise DeadlineExceeded(deadline_s)
        return left

    def seconds(self, **more: float) -> dict[str, float]:
        return {**self._seconds, **more, "total": self.elapsed() - self._outside}
