"""How sure a mean is: the same every time, as wide as it should be."""

import numpy as np
import pytest

from refdesk.eval.statistics import interval, paired_difference


def test_the_same_values_give_the_same_interval() -> None:
    values = list(np.random.default_rng(1).random(50))
    assert interval(values) == interval(values)
    assert interval(values, seed=1) != interval(values)


def test_one_value_is_its_own_interval_and_none_is_an_error() -> None:
    found = interval([0.3])
    assert (found.mean, found.low, found.high, found.n) == (0.3, 0.3, 0.3, 1)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_the_interval_is_that_of_theory_and_narrows_with_the_root_of_n() -> None:
    generator = np.random.default_rng(0)
    for n in (100, 1600):
        values = generator.normal(size=n)
        found = interval(values.tolist())
        half = 1.96 * float(values.std()) / n**0.5
        assert found.mean == pytest.approx(values.mean())
        assert found.low == pytest.approx(found.mean - half, abs=0.12 * half)
        assert found.high == pytest.approx(found.mean + half, abs=0.12 * half)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        found = interval((generator.random(80) < 0.3).astype(float).tolist(), rounds=1000)
        held += found.low <= 0.3 <= found.high
    assert 0.90 <= held / 300 <= 0.99


def test_the_interval_over_many_questions_is_as_wide_as_theory_says() -> None:
    found = interval([0.0, 1.0] * 5000)
    assert found.mean == 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 100, rel=0.1)


def test_a_run_and_itself_differ_by_nothing() -> None:
    scores = {str(number): number / 7 for number in range(30)}
    found = paired_difference(scores, scores)
    assert found is not None
    assert (found.mean, found.low, found.high, found.n, found.p) == (0.0, 0.0, 0.0, 30, 1.0)


def test_only_shared_questions_with_a_number_count() -> None:
    before = {"a": 0.0, "b": None, "c": 1.0, "d": 0.5}
    after = {"a": 1.0, "b": 1.0, "c": None, "e": 0.5}
    found = paired_difference(before, after)
    assert found is not None
    assert (found.mean, found.n) == (1.0, 1)
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None
    assert paired_difference({"a": 1.0}, {"a": None}) is None


def test_the_test_of_few_questions_is_exact() -> None:
    before = dict.fromkeys("abc", 0.0)
    # Of the eight patterns of signs of 1, 2, 3 two have a sum of 6 or -6.
    found = paired_difference(before, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert found is not None
    assert found.p == 2 / 8
    # Of 1, 2, -3 all sums are at least 0 in size.
    found = paired_difference(before, {"a": 1.0, "b": 2.0, "c": -3.0})
    assert found is not None
    assert found.p == 1.0


def test_the_test_does_not_depend_on_the_size_of_the_unit() -> None:
    before = dict.fromkeys("abcdef", 0.0)
    gains = dict(zip("abcdef", (1.0, 2.0, 3.0, -1.0, 2.0, 4.0), strict=True))
    p = [
        found.p
        for unit in (1.0, 1e-12, 1e12)
        if (found := paired_difference(before, {name: gain * unit for name, gain in gains.items()})) is not None
    ]
    assert p[0] == p[1] == p[2] < 0.2


def test_a_constant_gain_is_sure_and_pure_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    before = {str(number): float(value) for number, value in enumerate(generator.random(60))}
    gain = paired_difference(before, {name: value + 0.1 for name, value in before.items()})
    noise = paired_difference(before, {name: value + generator.normal() for name, value in before.items()})
    assert gain is not None
    assert noise is not None
    assert gain.p < 0.001
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.1))
    assert noise.p > 0.05
    assert noise.low < 0 < noise.high
