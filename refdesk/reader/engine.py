"""The engine: everything that generates goes through `submit`.

One thread of its own serves all requests together: each step is one forward over a chunk of those that are being
read (chunked prefill) and one token of each that is being answered. Between two steps it looks for cancelled
requests and passed deadlines, of requests in work and of those that wait for memory.

With the model's own weights in float32 greedy output equals `generate(do_sample=False)` token for token, alone and
in any company, for every chunk size; in bfloat16 another chunk size rounds otherwise and may tip a tie. Penalties
that a generation config asks for are not applied.
"""

import logging
from collections import deque
from threading import Condition, Thread
from types import TracebackType

from refdesk.memory.kept_runs import KeptRuns
from refdesk.memory.policies import POLICIES
from refdesk.memory.pool import BlockPool
from refdesk.reader.errors import EngineClosed, InvalidOption, PromptTooLong
from refdesk.reader.forward import Forward, cache_shape
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.heads import check_fit
from refdesk.reader.job import Job
from refdesk.reader.model import ReaderModel
from refdesk.reader.remember import check_recall
from refdesk.reader.scheduler import Scheduler
from refdesk.reader.stream import Stream

_log = logging.getLogger(__name__)


class Engine:
    """Generates for any number of threads. Use as a context manager, or `close()` it; until then the model is its
    own.

    `chunk_tokens`: how many tokens of prompts are read in one forward; fewer notice a cancellation and hand out
    tokens sooner, more read faster. `memory_bytes`: the ceiling of the KV memory of all requests together; it is
    taken from the system as it is written to. `kept`: where a run may be found that is not in memory.
    """

    def __init__(
        self,
        model: ReaderModel,
        *,
        chunk_tokens: int = 512,
        memory_bytes: int = 2**30,
        kept: KeptRuns | None = None,
    ) -> None:
        if chunk_tokens < 1:
            raise InvalidOption("chunk_tokens", chunk_tokens, "at least 1")
        if memory_bytes < 1:
            raise InvalidOption("memory_bytes", memory_bytes, "at least 1")
        self._model = model
        self._pool = BlockPool.of_bytes(cache_shape(model), memory_bytes)
        if self._pool.blocks < self._pool.shape.slots:
            least = self._pool.shape.slots * self._pool.block_bytes
            raise InvalidOption(
                "memory_bytes", memory_bytes, f"at least {least}, a block for each layer and KV head"
            )
        self._forward = Forward(model, self._pool)
        self.chunk_tokens = chunk_tokens
        self._scheduler = Scheduler(self._pool, self._forward, chunk_tokens, kept)
        self._changed = Condition()  # guards the three below
        self._arrived: deque[Job] = deque()
        self._jobs: dict[Stream, Job] = {}
        self._closed = False
        self._thread = Thread(target=self._serve, name="refdesk-engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request; returns at once.

        Raises:
            InvalidOption: a token id that the model does not know, or a policy that it cannot be read under.
            PromptTooLong: prompt and answer do not fit the model's window.
            MemoryTooSmall: they can never fit the engine's memory.
            AdapterMismatch: the adapter is for another model, or this one's weights are not packed.
            HeadsMismatch: the retaining heads are for a model of other shapes.
            MemoryMismatch: a document's memory was made by another reader.
            EngineClosed: after `close()`.
        """
        if request.adapter is not None:
            request.adapter.check_fits(self._model)
        if request.heads is not None:
            check_fit(request.heads, self._model)
        self._check_policy(request)
        if request.in_line and not self.moves_entries:
            raise InvalidOption("in_line", True, f"false, for how {self._model.name} turns its keys is not known")
        if request.recall is not None:
            check_recall(request.recall, self._model, request.adapter, request.front)
        end = request.layout.end(self.chunk_tokens, request.room)
        if end > self._model.window:
            raise PromptTooLong(end - request.room, request.room, self._model.window)
        vocabulary = self._model.vocabulary
        for extreme in (min(request.all_ids()), max(request.all_ids())):
            if not 0 <= extreme < vocabulary:
                raise InvalidOption("token_ids", extreme, f"ids of 0 to {vocabulary - 1}")
        self._scheduler.check_fits(request)
        job = Job(request, self._model, Stream(self._cancel))
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is closed")
            self._arrived.append(job)
            self._jobs[job.stream] = job
            self._changed.notify()
        return job.stream

    @property
    def moves_entries(self) -> bool:
        """Whether the model's entries can be given other positions, as compact policies do."""
        return self._pool.rotation is not None

    @property
    def capacity(self) -> int:
        """Tokens that its memory can hold, in every layer and KV head."""
        return self._pool.blocks // self._pool.shape.slots * self._pool.block_size

    def can_hold(self, request: GenerationRequest) -> bool:
        """Whether the request fits its memory, with nobody else in it."""
        return self._scheduler.most_blocks(request) <= self._pool.blocks

    @property
    def memory_used(self) -> int:
        """Bytes of the blocks in use, idle runs included."""
        return self._pool.used * self._pool.block_bytes

    def close(self) -> None:
        """Cancel what runs and waits, and wait for the thread to end. Calling it again does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_policy(self, request: GenerationRequest) -> None:
        """Raise InvalidOption where the policy asks for what is not there."""
        policy = request.memory.policy
        if policy is None:
            return
        if (policy.compact or policy.learned) and not self.moves_entries:
            others = ", ".join(name for name, kind in POLICIES.items() if not kind.compact)
            raise InvalidOption(
                "memory policy",
                policy.name,
                f"one that leaves positions as they are ({others}), for how {self._model.name} turns its keys is"
                " not known",
            )
        if policy.learned and request.heads is None:
            adapter = "without an adapter" if request.adapter is None else f"with adapter {request.adapter.name!r}"
            raise InvalidOption(
                "memory policy",
                policy.name,
                f"retaining heads trained for {self._model.name} {adapter}, of which there are none (`refdesk"
                " heads train` makes them), or a policy that needs none, such as infinipot",
            )

    def _cancel(self, stream: Stream) -> None:
        with self._changed:
            if stream in self._jobs:
                self._jobs[stream].cancelled = True

    def _serve(self) -> None:
        try:
            while self._take_in():
                try:
                    self._scheduler.step()
                except Exception as error:  # it belongs to whoever reads these streams; the engine serves on
                    _log.exception("a step of the engine failed; whoever ran is told, whoever waits is served")
                    self._scheduler.fail_all(error)
            self._scheduler.end_all()
        except Exception:
            _log.exception("the engine has ended, for what failed could not be ended; whoever is left is told")
        finally:
            self._leave()

    def _leave(self) -> None:
        """The thread ends, however that came: nobody waits for it, and the model is its own again."""
        with self._changed:
            self._closed = True
            for stream in self._jobs:
                if not stream.done:
                    stream.finish(EngineClosed("the engine has ended before the request was done"))
        self._forward.close()

    def _take_in(self) -> bool:
        """Hand what has arrived to the scheduler; waits while there is nothing to do. False when closed."""
        with self._changed:
            for stream in [stream for stream in self._jobs if stream.done]:
                del self._jobs[stream]
            while not self._closed and self._scheduler.idle and not self._arrived:
                self._changed.wait()
            while self._arrived:
                self._scheduler.add(self._arrived.popleft())
            return not self._closed
