"""Where sentences begin and end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.reader.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. K. Rowling in Jan. 2017. She left.", None),
        ("It is 4.2 million. See Fig. 3 for more.", ["It is 4.2 million.", "See Fig. 3 for more."]),
        ('She said: "No." Then left.', ['She said: "No."', "Then left."]),
        ("A heading\n\nA hard\nbreak. Next", ["A heading", "A hard\nbreak.", "Next"]),
        ("Buy:\n- oil\n- salt\n2) bread", ["Buy:", "- oil", "- salt", "2) bread"]),
        ("日本です。東京。", ["日本です。", "東京。"]),
        (" \n ", []),
    ],
)
def test_sentences_end_where_people_end_them(text: str, sentences: list[str] | None) -> None:
    expected = sentences or ["Dr. Smith met J. K. Rowling in Jan. 2017.", "She left."] * bool(text.strip())
    assert [text[start:end] for start, end in split_sentences(text)] == expected


def test_a_table_without_full_stops_is_taken_apart_by_lines() -> None:
    table = "\n".join(f"row {i} | some cell | another cell" for i in range(40))
    assert len(split_sentences(table)) == 40


@pytest.mark.parametrize(
    ("before", "run", "behind", "sentences"),
    [
        ("a", ".", "y", 1),
        ("a", ".", " Y", 2),
        ("a", "?", '" Y', 2),
        ("a.", '"', "y", 1),
        ("a", ". ", "", 1),
        ("a", " ", "b", 1),
        ("a.", " ", "–", 1),
        ("a", " ", "\n- b", 2),
        ("a\n", " ", "\nb", 2),
        ("a", "\n", "b", 2),
    ],
)
def test_a_run_of_any_length_is_what_a_short_one_is(before: str, run: str, behind: str, sentences: int) -> None:
    for count in (5, 200_000):  # hours, where every place of a run is tried with every other
        text = before + run * count + behind
        found = [text[start:end] for start, end in split_sentences(text)]
        assert len(found) == sentences
        assert "".join("".join(found).split()) == "".join(text.split())


@given(st.text(alphabet="aB1.!? \n\t\"'()-–•。é\u2028", max_size=120))
def test_spans_ascend_and_leave_out_only_white_space(text: str) -> None:
    position = 0
    for start, end in split_sentences(text):
        assert text[position:start].strip() == ""
        assert start < end
        assert text[start:end] == text[start:end].strip()
        position = end
    assert text[position:].strip() == ""
