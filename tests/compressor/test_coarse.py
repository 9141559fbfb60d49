"""Coarse selection, by hand."""

import pytest

from refdesk.compressor.coarse import base_ratio, retain


def test_the_text_that_crosses_the_budget_is_among_those_retained() -> None:
    ranked, sizes = [2, 0, 3, 1], [150, 140, 120, 130]
    assert retain(ranked, sizes, 300) == [2, 0, 3]  # 120 + 150 = 270, and 130 more cross
    assert retain(ranked, sizes, 270) == [2, 0]  # met, not crossed
    assert retain(ranked, sizes, 1) == [2]


def test_a_budget_above_all_texts_retains_them_all() -> None:
    assert retain([1, 0], [150, 140], 1000) == [1, 0]
    assert base_ratio(290, 1000) == 1


def test_the_base_ratio_takes_the_overshoot_off() -> None:
    assert base_ratio(400, 300) == pytest.approx(1 - 100 / 400)
