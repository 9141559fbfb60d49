"""Sentences as spans of their text."""

import re
from itertools import pairwise

# A full stop, a question or exclamation mark, perhaps closing quotes, then space and something that opens a
# sentence; or an empty line; or a line break before a bullet or a numbered item. Each begins where a run of marks
# or of white space does and gives nothing of it back, so that a long run is gone through once.
_END = re.compile(
    r"""(?P<mark>(?<![.!?…])[.!?…]++["'”’)\]]*+)\s++(?=["'“‘(\[]*+[\w$€£#*-])"""
    r"""|(?<!\s)[^\S\n]*+\n(?:[^\S\n]*+\n\s*+|\s*+(?=(?:[-*•‣–]|\(?\d++[.)])\s))"""
)
_CJK_END = re.compile(r"[。！？]+[」』”）]*")
_ABBREVIATION = re.compile(
    r"""\b(?:[A-Za-z]|[Mm]rs?|[Mm]s|[Dd]rs?|[Pp]rof|[Ss]t|[Ss]r|[Jj]r|vs|cf|al|eds?|[Ii]nc|[Ll]td|[Cc]o|[Cc]orp"""
    r"""|[Aa]pprox|ca|e\.g|i\.e|Gen|Col|Lt|Capt|Sgt|Rev|Hon|Gov|Sen|Rep|Pres)\.$"""
)
_NUMBERED = re.compile(
    r"\b(?:[Nn]os?|[Ff]igs?|[Ee]q|[Ss]ec|[Vv]ol|[Cc]h|[Aa]rt|pp?|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$"
)
_LONG = 500  # characters: what is longer without a full stop is a table or a list, and its lines are taken apart


def split_sentences(text: str) -> list[tuple[int, int]]:
    """The sentences of `text` as ascending `(start, end)` without surrounding white space, none empty.

    A line break alone ends no sentence (documents are full of hard breaks) unless a list item follows or the
    stretch is too long to be a sentence. Abbreviations and initials do not end one.
    """
    cuts: set[int] = {match.end() for match in _CJK_END.finditer(text)}
    for match in _END.finditer(text):
        mark = match["mark"]
        if mark == "." and _continues(text, match.start(), match.end()):
            continue
        cuts.add(match.end())
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    spans: list[tuple[int, int]] = []
    for start, end in pairwise(bounds):
        pieces = [(start, end)] if end - start <= _LONG else _lines(text, start, end)
        spans.extend(span for span in (_strip(text, *piece) for piece in pieces) if span[0] < span[1])
    return spans


def _continues(text: str, mark: int, following: int) -> bool:
    """Whether the full stop at `mark` ends an abbreviation only, or the word after it is in lower case."""
    if text[following].islower():
        return True
    nearby = max(0, mark - 12), mark + 1
    if text[following].isdigit() and _NUMBERED.search(text, *nearby):
        return True
    return _ABBREVIATION.search(text, *nearby) is not None


def _lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    cuts = [start, *(match.end() for match in re.compile(r"\n").finditer(text, start, end)), end]
    return list(pairwise(cuts))


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
