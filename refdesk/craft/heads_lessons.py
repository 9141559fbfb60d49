"""Lessons for retaining heads: those that say what answers look for in passages, some with the question first.

Heads are to know both what any question may want of a passage and, where the question stands ahead of it, what
this one does (Locret-Q, arXiv 2410.01805).
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

from refdesk.craft.lesson import Lesson


def heads_lessons(lessons: Iterable[Lesson], question_share: float, seed: int) -> Iterator[Lesson]:
    """Each lesson with the exercises whose answer stands in its passages, for the others look for nothing in them;
    lessons without any are left out. A share, drawn by `seed`, keeps one exercise and has its question first."""
    rng = random.Random(f"{seed} question first")
    for lesson in lessons:
        exercises = tuple(one for one in lesson.exercises if one.kind == "answer" and one.oracles)
        question_first = rng.random() < question_share
        if not exercises:
            continue
        if question_first:
            exercises = (rng.choice(exercises),)
        yield replace(lesson, exercises=exercises, question_first=question_first)
