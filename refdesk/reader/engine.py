"""The engine: everything that generates goes through `submit`.

One thread of its own serves requests in the order they came, one at a time. It reads a prompt in chunks
(chunked prefill), then one token per step, and between any two of these it looks for cancelled requests and
passed deadlines, of the request in work and of those that wait.

With the model's own weights in float32 greedy output equals `generate(do_sample=False)` token for token, for
every chunk size; in bfloat16 another chunk size rounds otherwise and may tip a tie. Penalties that a generation
config asks for are not applied.
"""

from collections import deque
from copy import deepcopy
from threading import Condition, Thread
from time import perf_counter
from types import TracebackType
from typing import Any

import torch
from transformers import DynamicCache

from refdesk.reader.detokenize import Detokenizer, StopFilter
from refdesk.reader.errors import EngineClosed, InvalidOption, PromptTooLong
from refdesk.reader.generation import FinishReason, Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.sampling import Sampler
from refdesk.reader.stream import Stream


class Engine:
    """Generates for any number of threads. Use as a context manager, or `close()` it.

    `chunk_tokens`: how much of a prompt is read in one forward; smaller notices a cancellation sooner, larger
    reads faster.
    """

    def __init__(self, model: ReaderModel, *, chunk_tokens: int = 512) -> None:
        if chunk_tokens < 1:
            raise InvalidOption("chunk_tokens", chunk_tokens, "at least 1")
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._changed = Condition()  # guards the three below
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._closed = False
        self._thread = Thread(target=self._serve, name="refdesk-engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request; returns at once.

        Raises:
            PromptTooLong: prompt and answer do not fit the model's window.
            EngineClosed: after `close()`.
        """
        behind = max(request.max_new_tokens, *map(len, request.continuations), 0)
        if len(request.token_ids) + behind > self._model.window:
            raise PromptTooLong(len(request.token_ids), behind, self._model.window)
        job = _Job(request, self._model, Stream(self._cancel))
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is closed")
            self._waiting.append(job)
            self._changed.notify()
        return job.stream

    def close(self) -> None:
        """Cancel what runs and waits, and wait for the thread to end. Calling it again does nothing."""
        with self._changed:
            self._closed = True
            if self._running is not None:
                self._running.cancelled = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cancel(self, stream: Stream) -> None:
        with self._changed:
            if self._running is not None and self._running.stream is stream:
                self._running.cancelled = True
                return
            job = next((job for job in self._waiting if job.stream is stream), None)
            if job is not None:
                self._waiting.remove(job)
        if job is not None:
            job.end("cancelled")

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except Exception as error:  # it belongs to whoever reads this stream; the engine serves on
                job.fail(error)
            finally:
                with self._changed:
                    self._running = None
        with self._changed:
            left, self._waiting = self._waiting, deque()
        for job in left:
            job.end("cancelled")

    def _next(self) -> "_Job | None":
        """The next request to serve, waited for; None when the engine is closed."""
        while True:
            with self._changed:
                while not self._closed and not self._waiting:
                    self._changed.wait()
                if self._closed:
                    return None
                self._running = self._waiting.popleft()
                return self._running

    @torch.inference_mode()
    def _run(self, job: "_Job") -> None:
        prompt = job.request.token_ids
        job.prefill_started = perf_counter()
        for start in range(0, len(prompt), self._chunk_tokens):
            if self._ended(job):
                return
            logits = job.forward(prompt[start : start + self._chunk_tokens])
        job.read = perf_counter()
        for continuation in job.request.continuations:
            if self._ended(job):
                return
            job.score(logits, continuation)
        job.decode_started = perf_counter()
        while not job.accept(logits) and not self._ended(job):
            logits = job.forward(job.generated[-1:])

    def _ended(self, job: "_Job") -> bool:
        """Between two forwards: end what has been cancelled or is late, `job` or one that waits."""
        now = perf_counter()
        with self._changed:
            late = [waiting for waiting in self._waiting if waiting.late(now)]
            for waiting in late:
                self._waiting.remove(waiting)
        for waiting in late:
            waiting.end("deadline")
        if job.cancelled:
            job.end("cancelled")
        elif job.late(now):
            job.end("deadline")
        return job.stream.done


class _Job:
    """A request on its way: what it holds and what it has generated. Touched by the engine's thread only, but
    for `cancelled`, and for `end` on a job that was taken out of the queue."""

    def __init__(self, request: GenerationRequest, model: ReaderModel, stream: Stream) -> None:
        self.request = request
        self.stream = stream
        self.cancelled = False
        self.generated: list[int] = []
        self.submitted = perf_counter()
        self.prefill_started: float | None = None
        self.read: float | None = None  # when the prompt was
        self.decode_started: float | None = None
        self._model = model
        self._cache: Any = None
        self._seen = 0
        self._text: list[str] = []
        self._nll: list[tuple[float, ...]] = []
        self._sampler = Sampler(request.temperature, request.top_p, request.seed)
        self._detokenizer = Detokenizer(model.tokenizer)
        self._stop = StopFilter(request.stop)

    def late(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return self.request.deadline_s is not None and now - self.submitted > self.request.deadline_s

    def forward(self, token_ids: tuple[int, ...] | list[int]) -> torch.Tensor:
        """Read more tokens; the logits `[vocabulary]` after the last of them."""
        if self._cache is None:
            self._cache = DynamicCache(config=self._model.model.config)
        logits = self._forward(token_ids, self._cache, keep=1)[-1]
        self._seen += len(token_ids)
        return logits

    def score(self, logits: torch.Tensor, continuation: tuple[int, ...]) -> None:
        """Note how likely `continuation` is behind the prompt, whose last logits these are."""
        rows = logits[None]
        if len(continuation) > 1:
            cache = deepcopy(self._cache)  # the one in use must not see it, and not every kind can be cut back
            behind = self._forward(continuation[:-1], cache, keep=len(continuation) - 1)
            rows = torch.cat([rows, behind])
        target = torch.tensor(continuation, device=rows.device)
        self._nll.append(tuple(torch.nn.functional.cross_entropy(rows.float(), target, reduction="none").tolist()))

    def _forward(self, token_ids: tuple[int, ...] | list[int], cache: Any, keep: int) -> torch.Tensor:
        """The logits `[keep, vocabulary]` after the last `keep` of these tokens, which go behind those seen."""
        device = self._model.device
        positions = torch.arange(self._seen, self._seen + len(token_ids), device=device)
        output = self._model.model(
            input_ids=torch.tensor([token_ids], device=device),
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def accept(self, logits: torch.Tensor) -> bool:
        """Choose the next token and hand out the text it completes; whether the generation has ended by it."""
        token_id = self._sampler.pick(logits)
        self.generated.append(token_id)
        ended: FinishReason | None = None
        if token_id in self._model.end_ids:
            ended = "stop"
        else:
            piece, stopped = self._stop.push(self._detokenizer.push(token_id))
            self._put(piece)
            if stopped:
                ended = "stop"
            elif len(self.generated) == self.request.max_new_tokens:
                ended = "length"
        if ended is not None:
            self.end(ended)
        return ended is not None

    def end(self, reason: FinishReason) -> None:
        """Finish the stream and let go of the memory."""
        now = perf_counter()
        self._put(self._stop.flush())
        prefill_started = self.prefill_started or now
        read = self.read or now
        decode_started = self.decode_started or now
        entries, size = self._held()
        self._cache = None
        self.stream.finish(
            Generation(
                text="".join(self._text),
                token_ids=tuple(self.generated),
                finish_reason=reason,
                prompt_tokens=len(self.request.token_ids),
                completion_tokens=len(self.generated),
                queue_s=prefill_started - self.submitted,
                prefill_s=read - prefill_started,
                decode_s=now - decode_started,
                kv_entries=entries,
                kv_bytes=size,
                continuation_nll=tuple(self._nll),
                score_s=decode_started - read,
            )
        )

    def fail(self, error: Exception) -> None:
        """End the stream with an error and let go of the memory."""
        self._cache = None
        self.stream.finish(error)

    def _put(self, piece: str) -> None:
        if piece:
            self._text.append(piece)
            self.stream.put(piece)

    def _held(self) -> tuple[int, int]:
        """Entries and bytes in the cache, which only grows: now is the peak."""
        layers = [] if self._cache is None else [layer for layer in self._cache.layers if layer.is_initialized]
        entries = sum(layer.keys.shape[1] * layer.keys.shape[2] for layer in layers)
        return entries, sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
