"""How sure a mean is, and a difference of two: resampling over questions, the same in every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10_000
_EXACT_UP_TO = 12  # questions; 4,096 sign patterns
_AT_ONCE = 5_000_000  # numbers drawn at a time
_IN_ALL = 20_000_000  # numbers drawn for one interval: over many questions fewer rounds do


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` questions with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean gain over `n` shared questions, its 95 % interval, and how probable so large a one (either way) is
    if the two were alike."""

    mean: float
    low: float
    high: float
    n: int
    p: float


def interval(values: Sequence[float], rounds: int = _ROUNDS, seed: int = 0) -> Estimate:
    """The mean and its percentile bootstrap interval (Efron, 1979). Over many values fewer rounds are drawn, so
    that 20 million numbers do, but at least 1,000.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("no values")
    array = np.asarray(values, dtype=np.float64)
    rounds = min(rounds, max(1000, _IN_ALL // len(array)))
    low, high = np.percentile(_means(array, rounds, seed), (2.5, 97.5))
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def paired_difference(
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
    rounds: int = _ROUNDS,
    seed: int = 0,
) -> Difference | None:
    """`after` less `before` over the questions that have a number in both, by id; None if there are none.

    The interval is a bootstrap over questions; p is of the paired sign-flip permutation test, exact for few.
    """
    shared = [(a, b) for key, a in before.items() if a is not None and (b := after.get(key)) is not None]
    if not shared:
        return None
    gains = np.asarray([b - a for a, b in shared], dtype=np.float64)
    estimate = interval(gains.tolist(), rounds, seed)
    return Difference(estimate.mean, estimate.low, estimate.high, estimate.n, _sign_flip_p(gains, rounds, seed))


def _means(array: NDArray[np.float64], rounds: int, seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // len(array))
    return np.concatenate(
        [
            array[generator.integers(len(array), size=(min(batch, rounds - done), len(array)))].mean(axis=1)
            for done in range(0, rounds, batch)
        ]
    )


def _sign_flip_p(gains: NDArray[np.float64], rounds: int, seed: int) -> float:
    # Equal sums in another order of adding are equal.
    observed = abs(float(gains.sum())) - 1e-9 * float(np.abs(gains).sum())
    n = len(gains)
    if n <= _EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ gains) >= observed).mean())
    generator = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // n)
    as_large = 1  # the observed pattern itself is one of those drawn
    for done in range(0, rounds, batch):
        signs = 1 - 2 * generator.integers(2, size=(min(batch, rounds - done), n))
        as_large += int((np.abs(signs @ gains) >= observed).sum())
    return as_large / (rounds + 1)
