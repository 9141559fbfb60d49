"""Coarse selection: whole texts in rank order, until the budget is crossed (arXiv 2409.19272; methods 3.2.3)."""

from collections.abc import Sequence


def retain(ranked: Sequence[int], sizes: Sequence[int], budget: int) -> list[int]:
    """Of the indices `ranked`, best first, those before the budget is reached and the one that reaches it.

    `sizes`: the tokens of each text.
    """
    retained, running = [], 0
    for index in ranked:
        if running >= budget:
            break
        retained.append(index)
        running += sizes[index]
    return retained


def base_ratio(tokens: int, budget: int) -> float:
    """The keep ratio rho of `tokens` tokens, those over the budget taken off."""
    overshoot = max(tokens - budget, 0)
    return 1 - overshoot / tokens
