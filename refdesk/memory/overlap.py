"""Left-overlapping chunks: how a text longer than what is read at once is encoded (arXiv 2305.01625, its code).

A decoder needs no context on the right, so of every chunk but the first only what has context enough on its left
is kept (methods 4.2.2).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens from `start` to `end` are read; those from `kept` on are kept. All count from the first."""

    start: int
    end: int
    kept: int


def left_overlapping(tokens: int, window: int, overlap: int) -> list[Chunk]:
    """Chunks of at most `window` tokens that keep every token of a text once, in order; what a chunk keeps has
    `overlap` tokens of the text in front of it, if the text has so many. The last chunk ends with the text.

    Raises:
        ValueError: a window in which nothing is left beside the overlap.
    """
    if not 0 <= overlap < window:
        raise ValueError(
            f"an overlap of {overlap} tokens; expected 0 to {window - 1}, for {window} are read at once"
        )
    chunks = [Chunk(0, min(window, tokens), 0)] if tokens else []
    while chunks and (kept := chunks[-1].end) < tokens:
        end = min(kept + window - overlap, tokens)
        chunks.append(Chunk(max(end - window, 0), end, kept))
    return chunks
