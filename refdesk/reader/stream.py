"""The text of one generation while it comes, shared by the engine's thread and a reader's."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event

from refdesk.reader.generation import Generation


class Stream:
    """Iterate for pieces of text, or wait for `result()`; both may be done, from any thread.

    The queue has no bound, so a reader that stops reading never holds up the engine; what it can pile up is
    bounded by `max_new_tokens`.
    """

    def __init__(self, on_cancel: Callable[["Stream"], None]) -> None:
        self._on_cancel = on_cancel
        self._pieces: SimpleQueue[str | None] = SimpleQueue()
        self._done = Event()
        self._generation: Generation | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        """The pieces in order, never empty; each is handed out once.

        Raises:
            Exception: whatever ended the generation in the engine's thread.
        """
        while (piece := self._pieces.get()) is not None:
            yield piece
        self._pieces.put(None)  # a second iteration ends at once instead of waiting for ever
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """End the generation; its memory is given back before the next step. Does nothing when it has ended."""
        if not self._done.is_set():
            self._on_cancel(self)

    def result(self, timeout_s: float | None = None) -> Generation:
        """The finished generation; waits for it.

        Raises:
            TimeoutError: it has not finished within `timeout_s` seconds. The generation goes on.
            Exception: whatever ended the generation in the engine's thread.
        """
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"the generation has not finished within {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        assert self._generation is not None
        return self._generation

    @property
    def done(self) -> bool:
        """Whether `result()` returns or raises at once."""
        return self._done.is_set()

    # The engine's side.

    def put(self, piece: str) -> None:
        """Hand out a piece of text; empty ones are left out."""
        if piece:
            self._pieces.put(piece)

    def finish(self, outcome: Generation | Exception) -> None:
        """End the stream; called once."""
        if isinstance(outcome, Exception):
            self._error = outcome
        else:
            self._generation = outcome
        self._done.set()
        self._pieces.put(None)
