"""Which tokens of a segment stay: some for the question, the rest by their own likelihood (methods 3.2.5)."""

from collections.abc import Iterable, Sequence


def fill(order: Iterable[int], sizes: Sequence[int], room: int) -> list[int]:
    """Of indices in order of preference, each that fits into what is left of `room` tokens."""
    taken = []
    for i in order:
        if sizes[i] <= room:
            taken.append(i)
            room -= sizes[i]
    return taken


def select(
    unconditional: Sequence[float],
    contrast: Sequence[float],
    sizes: Sequence[int],
    keep: int,
    share: float,
    *,
    reverse: bool = False,
) -> list[int]:
    """Indices of the units that stay, ascending: `keep` tokens, of which `share` by the highest contrast, the rest
    by the lowest unconditional likelihood loss, or the highest with `reverse`.

    `unconditional`, `contrast`, `sizes`: one a unit; sizes in tokens. Ties go to the earlier unit. Fewer than
    `keep` tokens stay only where each unit that is left has more tokens than are missing.
    """
    guided = fill(_descending(range(len(sizes)), contrast), sizes, round(keep * share))
    rest = sorted(set(range(len(sizes))) - set(guided))
    missing = keep - sum(sizes[i] for i in guided)
    return sorted(guided + fill(_descending(rest, _preference(unconditional, reverse)), sizes, missing))


def select_by_threshold(
    unconditional: Sequence[float], contrast: Sequence[float], keep: float, share: float, *, reverse: bool = False
) -> list[int]:
    """As the paper's code selects: what is strictly above a threshold, so that each criterion keeps at least one
    token fewer than asked, and all that tie with the threshold go. `keep`: tokens, not rounded."""
    guided = _above(range(len(contrast)), contrast, keep * share)
    rest = sorted(set(range(len(contrast))) - set(guided))
    return sorted(guided + _above(rest, _preference(unconditional, reverse), keep * (1 - share)))


def _preference(unconditional: Sequence[float], reverse: bool) -> list[float]:
    return [value if reverse else -value for value in unconditional]


def _descending(indices: Iterable[int], values: Sequence[float]) -> list[int]:
    return sorted(indices, key=lambda i: -values[i])


def _above(indices: Iterable[int], values: Sequence[float], count: float) -> list[int]:
    order = _descending(indices, values)
    if int(count) == 0:
        return []
    threshold = values[order[int(count) - 1]]
    return [i for i in order if values[i] > threshold]
