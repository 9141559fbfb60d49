"""A lesson as the model reads it: one row of tokens, and who sees whom.

The segments are those of `reader.prompt`, byte for byte, at the positions that the engine reads them at. Behind
them stand the exercises, each a branch of its own: it begins where the question of a prompt would, sees what is in
front and itself, and no other branch. So one forward learns from all of them what as many prompts would teach.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refdesk.craft.errors import InvalidLessons, LessonTooLong
from refdesk.craft.lesson import Exercise, Lesson
from refdesk.reader.errors import PromptTooLong
from refdesk.reader.model import ReaderModel
from refdesk.reader.prompt import Prompt, build_prompt, encode_answer

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedLesson:
    """`token_ids`, `positions`, `groups`, `shifts` `[tokens]`; `rows`, `targets`, `exercises` `[supervised]`.
    `frame`: tokens in front of the passages. `kind`: how the lesson is read, or `question_first`.

    A token sees itself and those in front of it of its own group and of group 0; a branch sees what is in front of
    all branches. Groups: 0 what everybody sees, 1 and up a passage that is read apart, -1 and down a branch. For
    the branches a token stands `shifts` positions further on than where it was read.
    Behind `rows` the model is to say `targets`, which belong to the exercise of that number, from 0.
    """

    token_ids: Ints
    positions: Ints
    groups: Ints
    shifts: Ints
    rows: Ints
    targets: Ints
    exercises: Ints
    frame: int = 0
    kind: str = "together"

    @property
    def document(self) -> slice:
        """The tokens of the passages."""
        return slice(self.frame, int((self.groups >= 0).sum()))

    @property
    def count(self) -> int:
        """Exercises."""
        return int(self.exercises[-1]) + 1

    def mask(self, first: int = 0) -> NDArray[np.bool_]:
        """Who sees whom, `[tokens - first, tokens]`, a row for each token from `first` on."""
        looks, seen = self.groups[first:, None], self.groups[None, :]
        allowed = (looks == seen) | (seen == 0) | ((looks < 0) & (seen >= 0))
        place = np.arange(len(self.groups))
        mask: NDArray[np.bool_] = allowed & (place[None, :] <= place[first:, None])
        return mask


def encode_lesson(lesson: Lesson, model: ReaderModel) -> EncodedLesson:
    """Raises InvalidLessons where a lesson has no exercise, or several and the question of one in front;
    LessonTooLong where it does not fit the window."""
    if not lesson.exercises:
        raise InvalidLessons("a lesson without exercises; expected at least one")
    if lesson.question_first and len(lesson.exercises) > 1:
        raise InvalidLessons(f"question_first, and {len(lesson.exercises)} exercises; expected one")
    tokens: list[int] = []
    positions: list[int] = []
    groups: list[int] = []
    shifts: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    exercises: list[int] = []

    def add(ids: tuple[int, ...], start: int, group: int, shift: int = 0) -> None:
        tokens.extend(ids)
        positions.extend(range(start, start + len(ids)))
        groups.extend([group] * len(ids))
        shifts.extend([shift] * len(ids))

    answers = [(*encode_answer(one.target, model), model.tokenizer.eos_token_id) for one in lesson.exercises]
    prompts = [
        _prompt(lesson, one, len(answer), model) for one, answer in zip(lesson.exercises, answers, strict=True)
    ]
    apart, in_line = lesson.reading == "apart", all(prompt.in_line for prompt in prompts)
    add(prompts[0].system, 0, 0)
    frame = behind = len(tokens)
    for index, passage in enumerate(prompts[0].passages):
        if apart:
            add(passage, frame, index + 1, behind - frame if in_line else 0)
        else:
            add(passage, behind, 0)
        behind = behind + len(passage) if in_line or not apart else max(behind, frame + len(passage))
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        first = len(tokens) + len(prompt.question) - 1
        add(prompt.question + answer[:-1], behind, -1 - number)
        rows.extend(range(first, first + len(answer)))
        targets.extend(answer)
        exercises.extend([number] * len(answer))
    kind = "question_first" if lesson.question_first else lesson.reading
    return EncodedLesson(
        token_ids=_ints(tokens),
        positions=_ints(positions),
        groups=_ints(groups),
        shifts=_ints(shifts),
        rows=_ints(rows),
        targets=_ints(targets),
        exercises=_ints(exercises),
        frame=frame,
        kind=kind,
    )


def encode_lessons(lessons: Iterable[Lesson], model: ReaderModel, longest: int) -> tuple[list[EncodedLesson], int]:
    """Those of at most `longest` tokens, and how many are longer or do not fit the window."""
    kept, too_long = [], 0
    for lesson in lessons:
        try:
            one = encode_lesson(lesson, model)
        except LessonTooLong:
            too_long += 1
            continue
        if len(one.token_ids) <= longest:
            kept.append(one)
        else:
            too_long += 1
    return kept, too_long


def _prompt(lesson: Lesson, exercise: Exercise, room: int, model: ReaderModel) -> Prompt:
    too_long = LessonTooLong(f"exercise {exercise.id!r}: its passages do not fit the window of {model.window}")
    try:
        prompt = build_prompt(
            exercise.question,
            lesson.passages,
            model,
            room,
            lesson.reading,
            exercise.form,
            question_first=lesson.question_first,
        )
    except PromptTooLong:
        raise too_long from None
    if prompt.dropped:
        raise too_long
    return prompt


def _ints(values: list[int]) -> Ints:
    return np.asarray(values, dtype=np.int64)
