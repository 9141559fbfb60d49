"""What goes or stays as one: a token, or the several tokens of one character."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refdesk.compressor.scorer import TokenScorer


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
    """A text and its units, which cover it in order."""

    text: str
    units: tuple[Unit, ...]

    @property
    def size(self) -> int:
        """Its tokens."""
        return size_of(self.units)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All of them."""
        return token_ids_of(self.units)


def tokenize(scorer: TokenScorer, index: int, text: str) -> TokenizedText:
    """Tokens without characters join the unit in front of them; at the beginning of a text, the one behind."""
    units: list[Unit] = []
    for token_id, (start, end) in zip(*scorer.tokens(text), strict=True):
        if units and (start == end or units[-1].start == units[-1].end):
            last = units.pop()
            units.append(Unit(index, last.start, end, (*last.token_ids, token_id)))
        else:
            units.append(Unit(index, start, end, (token_id,)))
    return TokenizedText(text, tuple(units))


def size_of(units: Iterable[Unit]) -> int:
    """The tokens of all of them."""
    return sum(unit.size for unit in units)


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
