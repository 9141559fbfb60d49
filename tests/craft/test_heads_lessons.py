"""Which lessons teach what to keep, and which of them have the question first."""

from refdesk.craft.heads_lessons import heads_lessons
from refdesk.craft.lesson import Lesson
from tests.craft.worlds import lesson


def ids(one: Lesson) -> list[str]:
    return [exercise.id for exercise in one.exercises]


def test_what_looks_for_nothing_in_the_passages_teaches_nothing() -> None:
    (found,) = heads_lessons([lesson("apart", 3, 4)], 0.0, 0)
    assert ids(found) == ["who", "colour"]  # neither what cannot be found nor the asking of questions
    assert (found.reading, found.question_first) == ("apart", False)
    only = Lesson((), "together", lesson("together", 3, 4).exercises[2:])
    assert list(heads_lessons([only], 0.5, 0)) == []


def test_a_share_of_the_lessons_has_the_question_of_one_exercise_first() -> None:
    lessons = [lesson("together", 2, 3, first) for first in range(400)]
    found = list(heads_lessons(lessons, 0.25, 0))
    assert [one.passages for one in found] == [one.passages for one in lessons]
    first = [one for one in found if one.question_first]
    assert 70 < len(first) < 130
    assert {tuple(ids(one)) for one in first} == {("who",), ("colour",)}
    assert all(ids(one) == ["who", "colour"] for one in found if not one.question_first)


def test_the_seed_says_which() -> None:
    lessons = [lesson("together", 2, 3, first) for first in range(50)]
    one, again, other = (list(heads_lessons(lessons, 0.5, seed)) for seed in (0, 0, 1))
    assert one == again != other


def test_the_bounds_of_the_share_are_all_and_none() -> None:
    lessons = [lesson("together", 2, 3, first) for first in range(50)]
    assert all(one.question_first for one in heads_lessons(lessons, 1.0, 0))
    assert not any(one.question_first for one in heads_lessons(lessons, 0.0, 0))
