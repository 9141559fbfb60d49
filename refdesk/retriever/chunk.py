"""Chunks: sentence-aligned windows of a text, as exact character spans."""

import re
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

CountTokens = Callable[[list[str]], list[int]]

# A sentence ends behind . ! ? (and closing quotes) before white space, behind a CJK full stop, at a blank line.
_END = re.compile(r"""[.!?]["'”’)\]]*(?=\s)|[。！？]|\n[ \t\r]*(?=\n)""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Corp|Ltd|Co|No|vs|etc|e\.g|i\.e|cf|Fig|Figs|Eq|al|approx|dept|est|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)|\b[A-Z])\.$"
)


class Span(NamedTuple):
    """Characters `text[start:end]`."""

    start: int
    end: int


def chunk_text(text: str, size: int, overlap: int, count_tokens: CountTokens) -> list[Span]:
    """Windows of at most `size` tokens that begin and end at sentences where they can.

    Each window repeats about `overlap` tokens, in whole sentences, of the one before. Windows carry no white space
    at their ends; every other character is in at least one of them. `count_tokens` is asked in batches.
    A sentence longer than a window is cut at line ends, then between words, then anywhere.

    Raises:
        ValueError: size < 1, or overlap not in [0, size).
    """
    if size < 1:
        raise ValueError(f"size {size}: expected at least 1 token")
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap}: expected 0 to {size - 1} tokens")
    pieces = _fitting(text, _sentences(text), size, count_tokens)
    windows = _windows(pieces, size, overlap)
    # Counts need not add up over pieces; a window that came out too large is cut like a long sentence.
    spans, reach = [], 0
    for span in sorted((span for span, _ in _fitting(text, windows, size, count_tokens)), key=_longest_first):
        if span.end > reach:  # a piece of a cut window may stand within another
            spans.append(span)
            reach = span.end
    return spans


def _longest_first(span: Span) -> tuple[int, int]:
    return span.start, -span.end


def _sentences(text: str) -> list[Span]:
    spans, start = [], 0
    for match in _END.finditer(text):
        if text[match.start()] == "." and _ABBREVIATION.search(
            text, max(start, match.start() - 12), match.start() + 1
        ):
            continue
        spans.append(Span(start, match.end()))
        start = match.end()
    spans.append(Span(start, len(text)))
    return [span for span in (_strip(text, span) for span in spans) if span.end > span.start]


def _strip(text: str, span: Span) -> Span:
    piece = text[span.start : span.end]
    start = span.start + len(piece) - len(piece.lstrip())
    return Span(start, max(start, span.start + len(piece.rstrip())))


def _fitting(text: str, spans: list[Span], size: int, count_tokens: CountTokens) -> list[tuple[Span, int]]:
    """The spans with their token counts, those of more than `size` tokens cut in halves until they fit."""
    counts = count_tokens([text[start:end] for start, end in spans]) if spans else []
    fitting = []
    too_long = []
    for span, count in zip(spans, counts, strict=True):
        if count <= size or span.end - span.start == 1:
            fitting.append((span, count))
        else:
            too_long += _halves(text, span)
    if too_long:
        fitting += _fitting(text, too_long, size, count_tokens)
        fitting.sort()
    return fitting


def _halves(text: str, span: Span) -> list[Span]:
    """The span cut near its middle: at a line end of the middle half, else between words, else anywhere."""
    middle = (span.start + span.end) // 2
    quarter = (span.end - span.start) // 4
    cut = middle
    for separator in ("\n", " "):
        before = text.rfind(separator, middle - quarter, middle)
        after = text.find(separator, middle, middle + quarter)
        found = [place for place in (before, after) if place >= 0]
        if found:
            cut = min(found, key=lambda place: abs(place - middle))
            break
    halves = (Span(span.start, cut), Span(cut, span.end))
    return [half for half in (_strip(text, half) for half in halves) if half.end > half.start]


def _windows(pieces: list[tuple[Span, int]], size: int, overlap: int) -> list[Span]:
    """Runs of neighbouring pieces of at most `size` tokens together."""
    before = list(accumulate((count for _, count in pieces), initial=0))
    windows, first = [], 0
    while first < len(pieces):
        last = first + 1
        while last < len(pieces) and before[last + 1] - before[first] <= size:
            last += 1
        windows.append(Span(pieces[first][0].start, pieces[last - 1][0].end))
        if last == len(pieces):
            break
        # Step back over whole pieces, but always forward from the window's own beginning, and never so far
        # that the next window could not take in a new piece.
        following = last
        room = size - (before[last + 1] - before[last])
        while following - 1 > first and before[last] - before[following - 1] <= min(overlap, room):
            following -= 1
        first = following
    return windows
