"""Asking the engine for what is of no use in half: likelihoods, or a list of questions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from refdesk.reader.errors import Interrupted
from refdesk.reader.generation import Generation, GenerationRequest

if TYPE_CHECKING:
    from refdesk.reader.stream import Stream

Submit = Callable[[GenerationRequest], "Stream"]
"""As `Engine.submit`. That of an answer lets its deadline and its cancellation end whatever is asked for by it."""


def generated(submit: Submit, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """What the requests come to, all of them at once. Equal ones are one, and come to the same to the last bit.
    Where one fails, the others are given up.

    Raises:
        Interrupted: one was cancelled, or late; the engine closes by cancelling, too.
        ReaderError: what `Engine.submit` raises.
    """
    streams: dict[GenerationRequest, Stream] = {}
    try:
        for request in dict.fromkeys(requests):
            streams[request] = submit(request)
        found = {request: stream.result() for request, stream in streams.items()}
    finally:
        for stream in streams.values():
            stream.cancel()  # of a finished stream: nothing
    for generation in found.values():
        if generation.finish_reason in ("cancelled", "deadline"):
            raise Interrupted(generation.finish_reason)
    return [found[request] for request in requests]
