"""Lessons for retaining heads: those that say what answers look for in passages, some with the question first.

Heads are to know both what any question may want of a passage and, where the question stands ahead of it, what
this one does (Locret-Q, arXiv 2410.01805).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from refdesk.craft.lesson import Lesson
from refdesk.craft.question_first import questions_first


def heads_lessons(lessons: Iterable[Lesson], question_share: float, seed: int) -> Iterator[Lesson]:
    """Each lesson with the exercises whose answer stands in its passages, for the others look for nothing in them;
    lessons without any are left out. A share has the question first."""
    return questions_first(_looking(lessons), question_share, seed)


def _looking(lessons: Iterable[Lesson]) -> Iterator[Lesson]:
    for lesson in lessons:
        exercises = tuple(one for one in lesson.exercises if one.kind == "answer" and one.oracles)
        if exercises:
            yield replace(lesson, exercises=exercises, question_first=False)
