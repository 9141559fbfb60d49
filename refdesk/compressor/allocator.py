"""The dual-slope ratio allocator (arXiv 2409.19272; methods 3.2.4).

Segments come in rank order. The keep ratio falls with the rank, the share of kept tokens that the question
chooses grows with it.
"""

from collections.abc import Sequence

_BISECTIONS = 64  # halves an interval of at most 3 to less than a float can tell apart


def slope(segments: int, k: float) -> list[float]:
    """From `k` down to `-k` in equal steps; 0 for a single segment."""
    if segments == 1:
        return [0.0]
    return [k * (1 - 2 * i / (segments - 1)) for i in range(segments)]


def keep_ratios(segments: int, rho: float, k1: float) -> list[float]:
    """Of each segment the share of its tokens that stays, 0 to 1; their mean is `rho` if none is clamped."""
    return [_clamp(rho + delta) for delta in slope(segments, k1)]


def guided_shares(segments: int, tau_o: float, k2: float) -> list[float]:
    """Of each segment the share of its kept tokens that the question chooses, 0 to 1."""
    return [_clamp(tau_o - delta) for delta in slope(segments, k2)]


def keep_counts(sizes: Sequence[int], budget: int, k1: float) -> list[int]:
    """Of each segment of these sizes how many tokens stay; the sum is `budget`, at most the sum of the sizes.

    What clamping takes or gives is shared by the segments that can bear it: `rho` is moved for all until the
    clamped ratios meet the budget. Counts are then rounded to the largest remainder, the earlier first.
    """
    low, high = -k1, 1 + k1
    for _ in range(_BISECTIONS):
        rho = (low + high) / 2
        if sum(_wanted(sizes, rho, k1)) < budget:
            low = rho
        else:
            high = rho
    wanted = _wanted(sizes, low, k1)
    counts = [int(tokens) for tokens in wanted]
    by_remainder = sorted(range(len(sizes)), key=lambda i: counts[i] - wanted[i])
    for i in by_remainder[: budget - sum(counts)]:
        counts[i] += 1
    return counts


def _wanted(sizes: Sequence[int], rho: float, k1: float) -> list[float]:
    return [size * tau for size, tau in zip(sizes, keep_ratios(len(sizes), rho, k1), strict=True)]


def _clamp(value: float) -> float:
    return min(max(value, 0.0), 1.0)
