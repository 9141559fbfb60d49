"""Chunks that overlap on the left keep every token once, with enough of the text in front of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.memory.overlap import left_overlapping


@given(st.integers(0, 400), st.integers(1, 50), st.data())
def test_every_token_is_kept_once_and_has_the_overlap_in_front_of_it(
    tokens: int, window: int, data: st.DataObject
) -> None:
    """Methods 4.8, 1."""
    overlap = data.draw(st.integers(0, window - 1))
    chunks = left_overlapping(tokens, window, overlap)
    assert [token for chunk in chunks for token in range(chunk.kept, chunk.end)] == list(range(tokens))
    assert all(0 <= chunk.start <= chunk.kept < chunk.end <= chunk.start + window for chunk in chunks)
    assert all(chunk.kept - chunk.start >= min(overlap, chunk.kept) for chunk in chunks)


def test_numeric_case_a() -> None:
    """Methods 4.8."""

    def within(tokens: int) -> list[tuple[int, int, int]]:
        return [(one.start, one.end, one.kept - one.start) for one in left_overlapping(tokens, 8, 4)]

    assert within(20) == [(0, 8, 0), (4, 12, 4), (8, 16, 4), (12, 20, 4)]
    assert within(21) == [(0, 8, 0), (4, 12, 4), (8, 16, 4), (12, 20, 4), (13, 21, 7)]


@pytest.mark.parametrize("overlap", [-1, 8, 9])
def test_an_overlap_that_leaves_nothing_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"an overlap of {overlap} tokens; expected 0 to 7"):
        left_overlapping(20, 8, overlap)
