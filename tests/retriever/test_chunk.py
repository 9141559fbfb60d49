"""Chunks: exact spans of whole sentences within a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.retriever.chunk import chunk_text

TEXTS = st.text(alphabet=st.sampled_from("ab .!?\n。\u00a0é"), max_size=300)


def words(texts: list[str]) -> list[int]:
    """A counter that adds up: a token is a word."""
    return [len(text.split()) for text in texts]


def pairs(texts: list[str]) -> list[int]:
    """A counter that does not add up: two characters a token, one more for each text."""
    return [len(text) // 2 + 1 for text in texts]


def breaks(texts: list[str]) -> list[int]:
    """A counter whose wholes cost more than their parts: white space is a token too."""
    return [len(text.split()) + sum(map(str.isspace, text)) for text in texts]


@given(TEXTS, st.integers(2, 12), st.integers(0, 6), st.sampled_from([words, pairs, breaks]))
def test_every_character_is_covered_and_no_chunk_is_too_large(text, size, overlap, count) -> None:
    spans = chunk_text(text, size, min(overlap, size - 1), count)
    covered = set()
    for start, end in spans:
        chunk = text[start:end]
        assert chunk == chunk.strip() != ""
        assert count([chunk])[0] <= size
        covered |= set(range(start, end))
    assert all(text[i].isspace() or i in covered for i in range(len(text)))
    assert spans == sorted(set(spans))
    starts = [start for start, _ in spans]
    assert starts == sorted(set(starts))


def test_chunks_are_whole_sentences_and_repeat_the_last_one() -> None:
    text = "One two three. Four five six! Seven eight nine? Ten eleven twelve."
    chunks = [text[start:end] for start, end in chunk_text(text, 6, 3, words)]
    assert chunks == [
        "One two three. Four five six!",
        "Four five six! Seven eight nine?",
        "Seven eight nine? Ten eleven twelve.",
    ]


def test_abbreviations_and_initials_end_no_sentence() -> None:
    text = "Dr. A. Smith of Acme Inc. met J. Doe, i.e. the other one. They talked."
    chunks = [text[start:end] for start, end in chunk_text(text, 14, 0, words)]
    assert chunks == ["Dr. A. Smith of Acme Inc. met J. Doe, i.e. the other one.", "They talked."]


def test_a_blank_line_ends_a_sentence() -> None:
    text = "A heading\n\nThen some text here"
    assert [text[a:b] for a, b in chunk_text(text, 4, 0, words)] == ["A heading", "Then some text here"]


def test_a_table_is_cut_at_its_lines() -> None:
    text = "\n".join(f"row {i} value {i}" for i in range(8))
    chunks = [text[start:end] for start, end in chunk_text(text, 16, 0, words)]
    assert all(chunk.startswith("row") for chunk in chunks)


def test_a_string_without_breaks_is_cut_anywhere() -> None:
    spans = chunk_text("x" * 100, 10, 0, pairs)
    assert "".join("x" * (end - start) for start, end in spans) == "x" * 100


def test_text_without_sentences_fills_its_windows_and_overlaps() -> None:
    text = " ".join(f"w{i}" for i in range(1000))
    spans = chunk_text(text, 100, 20, words)
    assert [len(text[start:end].split()) for start, end in spans[:-1]] == [100] * (len(spans) - 1)
    assert text[spans[1].start : spans[0].end].split() == [f"w{i}" for i in range(80, 100)]


@pytest.mark.parametrize("text", ["word " * 20_000, "字" * 20_000, "cell 1\n" * 20_000, "One. Two! " * 5_000])
def test_the_counter_is_asked_in_a_few_batches(text: str) -> None:
    batches = []

    def count(texts: list[str]) -> list[int]:
        batches.append(len(texts))
        return pairs(texts)

    chunk_text(text, 50, 10, count)
    assert len(batches) <= 5


def test_white_space_has_no_chunks() -> None:
    assert chunk_text(" \n\t ", 5, 0, words) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_sizes_that_cannot_be_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        chunk_text("text", size, overlap, words)
