"""Which tokens of a segment stay: numeric case B both ways, and what each criterion may look at."""

from hypothesis import given
from hypothesis import strategies as st

from refdesk.compressor.selection import select, select_by_threshold

# Numeric case B of methods 3.5: one segment of 10 tokens, tau 0.6, o 0.5.
U = [3, 1, 4, 0.5, 2, 6, 0.2, 1.5, 2.5, 5]
C = [1, 1.1, 3.9, 0.4, 0.5, 5.5, 0.3, 1.4, 0.1, 5.2]
G = [u - c for u, c in zip(U, C, strict=True)]

distinct = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=20, unique=True)
sizes = st.lists(st.integers(1, 4), min_size=1, max_size=20)


def test_numeric_case_b_by_the_papers_thresholds_keeps_four_of_six() -> None:
    assert select_by_threshold(U, G, 10 * 0.6, 0.5) == [0, 3, 6, 8]
    assert select_by_threshold(U, G, 10 * 0.6, 0.5, reverse=True) == [0, 5, 8, 9]


def test_numeric_case_b_exactly_keeps_six() -> None:
    # By contrast 8, 0 and 4; of the rest 6, 3 and 1 are likeliest, 5, 9 and 2 least likely.
    assert select(U, G, [1] * 10, 6, 0.5) == [0, 1, 3, 4, 6, 8]
    assert select(U, G, [1] * 10, 6, 0.5, reverse=True) == [0, 2, 4, 5, 8, 9]


def test_ties_go_to_the_earlier_token_or_with_thresholds_to_none() -> None:
    assert select([1.0] * 5, [1.0] * 5, [1] * 5, 3, 0.4) == [0, 1, 2]
    assert select_by_threshold([1.0] * 5, [1.0] * 5, 3, 0.4) == []


@given(distinct, st.data())
def test_a_share_of_one_looks_at_the_contrast_only(contrast: list[float], data: st.DataObject) -> None:
    n = len(contrast)
    keep = data.draw(st.integers(0, n))
    unconditional = data.draw(st.lists(st.floats(0, 20), min_size=n, max_size=n))
    best = sorted(sorted(range(n), key=lambda i: contrast[i])[n - keep :])
    for reverse in (False, True):
        assert select(unconditional, contrast, [1] * n, keep, 1.0, reverse=reverse) == best


@given(distinct, st.data())
def test_a_share_of_zero_looks_at_the_unconditional_likelihood_only(
    unconditional: list[float], data: st.DataObject
) -> None:
    n = len(unconditional)
    keep = data.draw(st.integers(0, n))
    contrast = data.draw(st.lists(st.floats(-20, 20), min_size=n, max_size=n))
    assert select(unconditional, contrast, [1] * n, keep, 0.0) == sorted(
        sorted(range(n), key=lambda i: unconditional[i])[:keep]
    )


@given(distinct, st.floats(0, 1), st.data())
def test_default_and_reverse_are_complementary_on_what_the_question_does_not_choose(
    unconditional: list[float], share: float, data: st.DataObject
) -> None:
    n = len(unconditional)
    keep = data.draw(st.integers(0, n))
    contrast = data.draw(st.lists(st.floats(-20, 20), min_size=n, max_size=n))
    guided = select(unconditional, contrast, [1] * n, round(keep * share), 1.0)
    rest = set(range(n)) - set(guided)
    default = set(select(unconditional, contrast, [1] * n, keep, share)) - set(guided)
    # As many as default leaves out of the rest: reverse keeps just those.
    asked = len(guided) + len(rest - default)
    reverse = select(unconditional, contrast, [1] * n, asked, len(guided) / asked if asked else 0, reverse=True)
    assert set(reverse) - set(guided) == rest - default


@given(sizes, st.floats(0, 1), st.booleans(), st.data())
def test_what_stays_misses_less_than_any_unit_that_goes(
    sizes: list[int], share: float, reverse: bool, data: st.DataObject
) -> None:
    values = st.lists(st.floats(0, 20), min_size=len(sizes), max_size=len(sizes))
    keep = data.draw(st.integers(0, sum(sizes)))
    stays = select(data.draw(values), data.draw(values), sizes, keep, share, reverse=reverse)
    assert stays == sorted(set(stays))
    missing = keep - sum(sizes[i] for i in stays)
    assert missing >= 0
    assert all(size > missing for i, size in enumerate(sizes) if i not in stays) or missing == 0


@given(distinct, st.floats(0, 1), st.floats(0, 1), st.booleans(), st.data())
def test_thresholds_never_keep_more_than_asked(
    unconditional: list[float], tau: float, share: float, reverse: bool, data: st.DataObject
) -> None:
    n = len(unconditional)
    contrast = data.draw(st.lists(st.floats(-20, 20), min_size=n, max_size=n))
    assert len(select_by_threshold(unconditional, contrast, n * tau, share, reverse=reverse)) <= n * tau
