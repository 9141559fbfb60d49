"""A passage is a stretch of its source, and what is read of it are ranges of that stretch."""

import pytest

from refdesk.reader.passage import Passage

TEXT = "The Harrow Tower was finished in 1911."


def passage(kept: tuple[tuple[int, int], ...] | None) -> Passage:
    return Passage("tower", "Tower", TEXT, 100, 100 + len(TEXT), 1.0, kept=kept)


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        (None, TEXT),
        (((0, len(TEXT)),), TEXT),
        (((4, 16), (29, 38)), "Harrow Tower in 1911."),
        (((0, 3), (3, 16)), "The Harrow Tower"),
        ((), ""),
    ],
)
def test_what_is_kept_is_what_is_read(kept: tuple[tuple[int, int], ...] | None, read: str) -> None:
    assert passage(kept).read == read
    assert "".join(TEXT[start:end] for start, end in passage(kept).ranges) == read


@pytest.mark.parametrize(
    "kept",
    [((-1, 4),), ((0, len(TEXT) + 1),), ((4, 2),), ((5, 9), (0, 3)), ((0, 5), (4, 9))],
    ids=["before", "behind", "backwards", "out of order", "overlapping"],
)
def test_ranges_that_are_none_of_the_text_are_refused(kept: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"no ascending ranges of 38 characters: \(\(") as caught:
        passage(kept)
    assert str(kept) in str(caught.value)


def test_what_is_taken_out_leaves_the_passage_where_it_stands() -> None:
    whole, shorter = passage(None), passage(((4, 16),))
    assert (shorter.text, shorter.start, shorter.end) == (whole.text, whole.start, whole.end)
    assert shorter.overlaps(whole)
