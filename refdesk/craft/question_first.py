"""Lessons with the question ahead of the passages too, as policies of memory that go by the question read them."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

from refdesk.craft.lesson import Lesson


def questions_first(lessons: Iterable[Lesson], share: float, seed: int) -> Iterator[Lesson]:
    """A share of the lessons, drawn by `seed`, keeps one question that is to be answered and has it first; the
    others, and those without such a question, are as they were."""
    rng = random.Random(f"{seed} question first")
    for lesson in lessons:
        answered = [one for one in lesson.exercises if one.kind == "answer"]
        if rng.random() < share and answered:
            yield replace(lesson, exercises=(rng.choice(answered),), question_first=True)
        else:
            yield lesson
