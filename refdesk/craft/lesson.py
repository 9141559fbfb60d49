"""Lessons: passages, and what is asked of them, with the answers to learn. One JSON line each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from refdesk.craft.errors import InvalidLessons
from refdesk.reader.answer_form import AnswerForm
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import Reading


@dataclass(frozen=True, slots=True)
class Exercise:
    """A question and the answer to give, to the letter. `oracles`: which passages of the lesson hold it, from 0 in
    the lesson's order; none where saying that it cannot be found is right. `kind`: `answer` a question, or `ask`
    one (the instruction to do so then stands as the question)."""

    id: str
    question: str
    target: str
    form: AnswerForm = "short"
    oracles: tuple[int, ...] = ()
    kind: Literal["answer", "ask"] = "answer"


@dataclass(frozen=True, slots=True)
class Lesson:
    """`passages` as they are read, and how (`reading`); `exercises` over them, each blind to the others, so the
    passages are read once for all. `source`: where its questions come from. `question_first`: the question stands
    ahead of the passages too, for which there must be one exercise only."""

    passages: tuple[Passage, ...]
    reading: Reading
    exercises: tuple[Exercise, ...]
    source: str = ""
    question_first: bool = False


def write_lessons(path: Path, lessons: Iterable[Lesson]) -> None:
    """Into a file of JSON lines, which is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        for lesson in lessons:
            file.write(msgspec.json.encode(lesson) + b"\n")
    part.replace(path)


def read_lessons(path: Path) -> Iterator[Lesson]:
    """The lessons of a file.

    Raises:
        InvalidLessons: there is no such file, or a line is no lesson; the message names it.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidLessons(
            f"{path} cannot be read: {error}; expected what `refdesk craft prepare` wrote"
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield msgspec.json.decode(line, type=Lesson)
            except (msgspec.DecodeError, ValueError) as error:
                raise InvalidLessons(f"{path}, line {number}: {error}") from error
