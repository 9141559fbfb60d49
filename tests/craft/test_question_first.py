"""Which lessons have the question ahead of the passages, and what becomes of the others."""

from refdesk.craft.lesson import Lesson
from refdesk.craft.question_first import questions_first
from tests.craft.worlds import lesson

LESSONS = [lesson("together", 2, 3, first) for first in range(400)]


def test_a_share_of_the_lessons_keeps_one_answered_question_and_has_it_first() -> None:
    found = list(questions_first(LESSONS, 0.25, 0))
    first = [one for one in found if one.question_first]
    assert 70 < len(first) < 130
    assert {(len(one.exercises), one.exercises[0].kind) for one in first} == {(1, "answer")}
    assert {one.exercises[0].id for one in first} == {
        exercise.id for exercise in LESSONS[0].exercises if exercise.kind == "answer"
    }


def test_the_others_are_as_they_were_in_their_order() -> None:
    found = list(questions_first(LESSONS, 0.25, 0))
    assert [one.passages for one in found] == [one.passages for one in LESSONS]
    assert all(one == before for one, before in zip(found, LESSONS, strict=True) if not one.question_first)
    assert list(questions_first(LESSONS, 0.0, 0)) == LESSONS


def test_a_lesson_that_only_teaches_to_ask_stays_as_it_is() -> None:
    asking = lesson("together", 3, 4)
    only = Lesson(asking.passages, "together", tuple(one for one in asking.exercises if one.kind == "ask"))
    assert only.exercises
    assert list(questions_first([only], 1.0, 0)) == [only]
