"""Lessons as a file, and what their card counts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from refdesk.craft.card import describe, read_card, write_card
from refdesk.craft.errors import InvalidLessons
from refdesk.craft.lesson import Exercise, Lesson, read_lessons, write_lessons
from refdesk.craft.raft import make_lessons
from refdesk.craft.recipe import DataRecipe
from refdesk.reader.passage import Passage
from tests.craft.worlds import lesson, questions

LESSONS = [
    *(lesson("together", passages, 4, passages) for passages in (1, 5)),
    *(lesson("apart", passages, 2, passages) for passages in (2, 4)),
    Lesson((Passage("d", 'A "title"\n', "café 東京 🎉\u2028", 7, 17, 0.5, 3, ((0, 3), (5, 4))),), "apart", ()),
    Lesson((), "together", (Exercise("e", "Why?", "", "quote", kind="ask"),), "closed"),
]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lessons.jsonl"
    write_lessons(path, LESSONS)
    assert list(read_lessons(path)) == LESSONS
    assert len(path.read_bytes().splitlines()) == len(LESSONS)
    assert [one.name for one in path.parent.iterdir()] == ["lessons.jsonl"]


def test_a_writing_that_fails_leaves_the_older_file(tmp_path: Path) -> None:
    def failing() -> Iterator[Lesson]:
        yield LESSONS[1]
        raise OSError("the disk is full")

    path = tmp_path / "lessons.jsonl"
    write_lessons(path, LESSONS[:1])
    with pytest.raises(OSError, match="full"):
        write_lessons(path, failing())
    assert list(read_lessons(path)) == LESSONS[:1]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"passages": [], "reading": "together"',
        b"\xff\xfe",
        b'{"passages": [], "reading": "aside", "exercises": []}',
        b'{"reading": "together", "exercises": []}',
        b'{"passages": [{"document_id": "d", "title": "t", "text": "four", "start": 0, "end": 5, "score": 1}],'
        b' "reading": "together", "exercises": []}',
        b"[]",
        b"",
    ],
    ids=["cut off", "no text", "unknown reading", "no passages", "a passage that lies", "no object", "empty"],
)
def test_a_damaged_line_is_named(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lessons.jsonl"
    write_lessons(path, LESSONS[:3])
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], damage, lines[2]]) + b"\n")
    found = read_lessons(path)
    assert [next(found), next(found)] == LESSONS[:2]
    with pytest.raises(InvalidLessons, match=r"lessons\.jsonl, line 3: "):
        next(found)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidLessons, match=r"nowhere\.jsonl cannot be read.*craft prepare"):
        list(read_lessons(tmp_path / "nowhere.jsonl"))


def test_a_card_counts_what_is_in_the_lessons() -> None:
    lessons = list(make_lessons(questions(100, unanswerable=30), DataRecipe(ask_share=1.0), "halls"))
    asked = [one for each in lessons for one in each.exercises if one.kind == "answer"]
    asking = sum(one.kind == "ask" for each in lessons for one in each.exercises)
    card = describe(lessons)
    assert (card["lessons"], card["exercises"], len(asked)) == (len(lessons), 100 + asking, 100)
    assert card["by_source"] == {"halls": 100 + asking}
    assert card["by_form"]["ask"] == asking > 0
    assert card["by_form"]["short"] + card["by_form"]["quote"] == 100
    assert sum(card["by_reading"].values()) == 100 + asking
    assert sum(card["by_passages"].values()) == len(lessons)
    assert card["oracle_share"] == sum(bool(one.oracles) for one in asked) / 100
    assert describe([])["oracle_share"] is None


def test_a_card_is_read_as_written_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    card = {"sources": [{"task": "café"}], "loss": 0.25, "none": None}
    write_card(path, card)
    assert read_card(path) == card
    with pytest.raises(InvalidLessons, match=r"missing\.json cannot be read"):
        read_card(tmp_path / "missing.json")
    for content in ("{", "[1]", "\x00"):
        path.write_text(content)
        with pytest.raises(InvalidLessons, match=r"card\.json"):
            read_card(path)
