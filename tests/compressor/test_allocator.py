"""The dual-slope allocator: numbers by hand, slopes that keep their sense, counts that meet the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.compressor.allocator import guided_shares, keep_counts, keep_ratios, slope

segments = st.integers(1, 40)
shares = st.floats(0, 1)
sizes = st.lists(st.integers(1, 300), min_size=1, max_size=30)


def test_numeric_case_a_of_the_methods() -> None:
    assert slope(5, 0.4) == pytest.approx([0.4, 0.2, 0, -0.2, -0.4])
    assert keep_ratios(4, 0.5, 0.4) == pytest.approx([0.9, 0.6333, 0.3667, 0.1], abs=1e-4)
    assert guided_shares(4, 0.2, 0.1) == pytest.approx([0.1, 0.1667, 0.2333, 0.3], abs=1e-4)


@given(segments, shares)
def test_the_slope_is_antisymmetric_and_its_sum_is_zero(n: int, k: float) -> None:
    deltas = slope(n, k)
    assert deltas == pytest.approx([-delta for delta in reversed(deltas)])
    assert sum(deltas) == pytest.approx(0, abs=1e-9)


def test_a_single_segment_has_no_slope() -> None:
    assert slope(1, 0.4) == [0]


@given(segments, shares, shares)
def test_keep_ratios_fall_and_guided_shares_grow_and_both_are_shares(n: int, base: float, k: float) -> None:
    ratios, guided = keep_ratios(n, base, k), guided_shares(n, base, k)
    assert ratios == sorted(ratios, reverse=True)
    assert guided == sorted(guided)
    assert all(0 <= value <= 1 for value in ratios + guided)


@given(sizes, shares, st.data())
def test_counts_meet_every_budget_and_no_segment_keeps_more_than_it_has(
    sizes: list[int], k1: float, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, sum(sizes)))
    counts = keep_counts(sizes, budget, k1)
    assert sum(counts) == budget
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_counts_are_the_papers_ratios_where_nothing_is_clamped() -> None:
    assert keep_counts([300] * 4, 600, 0.4) == [270, 190, 110, 30]


def test_what_clamping_takes_from_the_first_segments_goes_to_those_with_room() -> None:
    clamped = [round(200 * ratio) for ratio in keep_ratios(5, 0.9, 0.4)]
    assert clamped == [200, 200, 180, 140, 100]
    assert sum(clamped) == 820  # of 900 asked for
    assert keep_counts([200] * 5, 900, 0.4) == [200, 200, 200, 170, 130]
