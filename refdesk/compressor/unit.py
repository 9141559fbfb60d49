"""What goes or stays as one, a token or the several tokens of one character, and the texts that they make up."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, TypeVar

from refdesk.compressor.scorer import TokenScorer


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=_Sized)


@dataclass(frozen=True, slots=True)
class Unit:
    """Characters `[start, end)` of the text with the index `text`, and their tokens."""

    text: int
    start: int
    end: int
    token_ids: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its tokens."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text, or a piece of one: the units that cover it in order. `ends`: the characters of the whole text where
    its sentences end, ascending. `title`: the tokens of what it stands under, which is no part of it."""

    units: tuple[Unit, ...]
    ends: tuple[int, ...] = ()
    title: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Its tokens."""
        return size_of(self.units)

    @property
    def index(self) -> int:
        """Of the text that its units are of."""
        return self.units[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All of them."""
        return token_ids_of(self.units)

    @property
    def titled(self) -> tuple[int, ...]:
        """The same under its title: a text seldom says whose it is."""
        return self.title + self.token_ids

    def sentences(self) -> "list[TokenizedText]":
        """Each by itself; space between two belongs to the one behind it."""
        by_end = groupby(self.units, key=lambda unit: bisect_right(self.ends, unit.start))
        return [replace(self, units=tuple(units)) for _, units in by_end]

    def pieces(self, most: int) -> "list[TokenizedText]":
        """Pieces of at most `most` tokens, as many sentences in each as it has room for. A sentence that is longer
        is cut too; a unit that is longer is a piece by itself."""
        runs = [
            TokenizedText(tuple(units)) for sentence in self.sentences() for units in packed(sentence.units, most)
        ]
        return [
            replace(self, units=tuple(unit for run in piece for unit in run.units)) for piece in packed(runs, most)
        ]


def tokenize(
    scorer: TokenScorer, index: int, text: str, ends: tuple[int, ...] = (), title: tuple[int, ...] = ()
) -> TokenizedText:
    """Tokens without characters join the unit in front of them; at the beginning of a text, the one behind."""
    units: list[Unit] = []
    for token_id, (start, end) in zip(*scorer.tokens(text), strict=True):
        if units and (start == end or units[-1].start == units[-1].end):
            last = units.pop()
            units.append(Unit(index, last.start, end, (*last.token_ids, token_id)))
        else:
            units.append(Unit(index, start, end, (token_id,)))
    return TokenizedText(tuple(units), ends, title)


def packed(items: Iterable[T], most: int) -> list[list[T]]:
    """Runs of at most `most` tokens, in order; what is larger is one by itself."""
    runs: list[list[T]] = []
    room = 0
    for item in items:
        if not runs or item.size > room:
            runs.append([])
            room = most
        runs[-1].append(item)
        room -= item.size
    return runs


def size_of(items: Iterable[_Sized]) -> int:
    """The tokens of all of them."""
    return sum(item.size for item in items)


def token_ids_of(units: Iterable[Unit]) -> tuple[int, ...]:
    """The tokens of all of them in order."""
    return tuple(token_id for unit in units for token_id in unit.token_ids)


def unit_means(units: Sequence[Unit], values: Sequence[float]) -> list[float]:
    """Of values, one a token, the mean of each unit."""
    means, at = [], 0
    for unit in units:
        means.append(sum(values[at : at + unit.size]) / unit.size)
        at += unit.size
    return means
