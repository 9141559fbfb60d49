"""What is left of texts: which of them, and which of their characters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refdesk.compressor.unit import TokenizedText, Unit, size_of

Range = tuple[int, int]


@dataclass(frozen=True)
class Compression:
    """`order`: indices of the texts of which something stays, best first. `kept`: of each of these the character
    ranges `[start, end)` that stay, ascending, apart and not empty. `tokens_before` and `tokens_after` count the
    tokens of all texts and those that stay. `reason`: why the budget is not met exactly; empty if it is."""

    order: tuple[int, ...]
    kept: tuple[tuple[Range, ...], ...]
    tokens_before: int
    tokens_after: int
    reason: str = ""

    def apply(self, texts: Sequence[str]) -> list[str]:
        """What is left of each text in `order`."""
        return [
            "".join(texts[index][start:end] for start, end in ranges)
            for index, ranges in zip(self.order, self.kept, strict=True)
        ]


def compression_of(texts: Sequence[TokenizedText], kept: Iterable[Unit], budget: int, because: str) -> Compression:
    """`kept`: the units that stay, those of the best text first. `because`: why they may not meet the budget."""
    by_text: dict[int, list[Unit]] = {}
    for unit in kept:
        by_text.setdefault(unit.text, []).append(unit)
    before, after = sum(text.size for text in texts), sum(map(size_of, by_text.values()))
    if after == budget:
        reason = ""
    elif after == before:
        reason = f"all {before} tokens stay: the budget of {budget} has room for them"
    else:
        reason = f"{after} tokens stay, the budget is {budget}: {because}"
    return Compression(tuple(by_text), tuple(_merged(units) for units in by_text.values()), before, after, reason)


def _merged(units: Iterable[Unit]) -> tuple[Range, ...]:
    ranges: list[Range] = []
    for unit in sorted(units, key=lambda unit: unit.start):
        start = ranges.pop()[0] if ranges and ranges[-1][1] == unit.start else unit.start
        ranges.append((start, unit.end))
    return tuple(ranges)
