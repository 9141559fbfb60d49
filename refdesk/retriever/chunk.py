"""Chunks: sentence-aligned windows of a text, as exact character spans."""

import re
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import NamedTuple

CountTokens = Callable[[list[str]], list[int]]

# A sentence ends behind . ! ? (and closing quotes) before white space, behind a CJK full stop, at a blank line.
_END = re.compile(r"""[.!?]["'”’)\]]*(?=\s)|[。！？]|\n[ \t\r]*(?=\n)""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Corp|Ltd|Co|No|vs|etc|e\.g|i\.e|cf|Fig|Figs|Eq|al|approx|dept|est|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)|\b[A-Z])\.$"
)
_LINE = re.compile(r"[^\n]+")
_WORD = re.compile(r"\S+")
_BITS_PER_WINDOW = 8  # parts of an unbroken string are this small, so that windows of them fill up and overlap


class Span(NamedTuple):
    """Characters `text[start:end]`."""

    start: int
    end: int


def chunk_text(text: str, size: int, overlap: int, count_tokens: CountTokens) -> list[Span]:
    """Windows of at most `size` tokens that begin and end at sentences where they can.

    Each window repeats at most `overlap` tokens, in whole sentences, of the one before. Windows carry no white
    space at their ends; every other character is in at least one of them. `count_tokens` is asked in batches.
    A sentence longer than a window is taken line by line, a longer line word by word, a longer word bit by bit.
    The one window that may be too large is a single character of more than `size` tokens.

    Raises:
        ValueError: size < 1, or overlap not in [0, size).
    """
    if size < 1:
        raise ValueError(f"size {size}: expected at least 1 token")
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap}: expected 0 to {size - 1} tokens")
    pieces, counts = _pieces(text, _sentences(text), size, count_tokens)
    return _verified(text, pieces, _windows(counts, size, overlap), size, count_tokens)


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
    return _stripped(text, spans)


def _stripped(text: str, spans: Iterable[Span]) -> list[Span]:
    """The spans without white space at their ends, less those of nothing else."""
    kept = []
    for start, end in spans:
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        if start < end:
            kept.append(Span(start, start + len(piece.strip())))
    return kept


def _pieces(text: str, spans: list[Span], size: int, count_tokens: CountTokens) -> tuple[list[Span], list[int]]:
    """The spans and their token counts, those of more than `size` tokens in parts that have fewer."""
    counts = count_tokens([text[start:end] for start, end in spans]) if spans else []
    fitting, parts = [], []
    for span, count in zip(spans, counts, strict=True):
        if count <= size or span.end - span.start == 1:
            fitting.append((span, count))
        else:
            parts += _parts(text, span, num_bits=-(-count * _BITS_PER_WINDOW // size))
    if parts:
        fitting += zip(*_pieces(text, parts, size, count_tokens), strict=True)
        fitting.sort()
    return [span for span, _ in fitting], [count for _, count in fitting]


def _parts(text: str, span: Span, num_bits: int) -> list[Span]:
    """The span's lines; of a single line, its words; of a single word, about `num_bits` even bits."""
    for unit in (_LINE, _WORD):
        found = (Span(*match.span()) for match in unit.finditer(text, span.start, span.end))
        if len(parts := _stripped(text, found)) > 1:
            return parts
    step = max(1, (span.end - span.start) // num_bits)
    return [Span(start, min(start + step, span.end)) for start in range(span.start, span.end, step)]


def _windows(counts: list[int], size: int, overlap: int) -> list[tuple[int, int]]:
    """Runs `(first, last)`, last excluded, of neighbouring pieces of at most `size` tokens together."""
    before = list(accumulate(counts, initial=0))
    windows, first = [], 0
    while first < len(counts):
        last = first + 1
        while last < len(counts) and before[last + 1] - before[first] <= size:
            last += 1
        windows.append((first, last))
        if last == len(counts):
            break
        # Step back over whole pieces, but always forward from the window's own beginning, and never so far
        # that the next window could not take in a new piece.
        following = last
        room = size - counts[last]
        while following - 1 > first and before[last] - before[following - 1] <= min(overlap, room):
            following -= 1
        first = following
    return windows


def _verified(
    text: str, pieces: list[Span], windows: list[tuple[int, int]], size: int, count_tokens: CountTokens
) -> list[Span]:
    """The windows as spans. Counts need not add up: a window that came out too large is parted in two."""
    spans: list[Span] = []
    while windows:
        candidates = [Span(pieces[first].start, pieces[last - 1].end) for first, last in windows]
        counts = count_tokens([text[start:end] for start, end in candidates])
        halves = []
        for (first, last), span, count in zip(windows, candidates, counts, strict=True):
            if count <= size or last - first == 1:
                spans.append(span)
            else:
                middle = (first + last) // 2
                halves += [(first, middle), (middle, last)]
        windows = halves
    kept, reach = [], 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.end > reach:  # half of a parted window may stand within the next window
            kept.append(span)
            reach = span.end
    return kept
