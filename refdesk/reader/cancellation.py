"""Ending an answer from outside."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import
    from refdesk.reader.stream import Stream


class Cancellation:
    """Ends one answer from another thread, whatever its own is waiting for."""

    def __init__(self) -> None:
        self._cancelled = False
        self._streams: list[Stream] = []

    def cancel(self) -> None:
        """The answer ends where it is, with the `finish_reason` `cancelled`; one that has ended stays as it is."""
        self._cancelled = True
        for stream in self._streams:
            stream.cancel()

    def follow(self, stream: "Stream") -> None:
        """What `stream` generates is part of the answer, or on the way to it."""
        self._streams = [*(one for one in self._streams if not one.done), stream]
        if self._cancelled:  # here or in `cancel`: whichever comes second sees what the first has set
            stream.cancel()
