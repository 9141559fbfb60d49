"""What may come between retrieving passages and reading them: something that makes them shorter for a question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refdesk.reader.passage import Passage
from refdesk.reader.submission import Submit


@dataclass(frozen=True, slots=True)
class Shortening:
    """`strategy`: by which passages were made shorter, `none` if they were not. `tokens_before`, `tokens_after`:
    of their texts. `reason`: why a budget was not met exactly, or nothing was taken out though that was asked for;
    empty if neither."""

    strategy: str = "none"
    tokens_before: int = 0
    tokens_after: int = 0
    reason: str = ""


READ_WHOLE = Shortening()

Shorten = Callable[[str, Sequence[Passage], int, Submit], tuple[Sequence[Passage], Shortening]]
"""`shorten(question, passages, room, submit)`: those of which something stays, best first, with the ranges of them
that are read. `room`: the most tokens of text for which the window has room, below 1 if it has none. `submit`: by
which the engine is asked, so that whatever ends the answer ends this too."""
