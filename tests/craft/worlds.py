"""Halls of which each question is known: what it is asked over, and what would give the answer away."""

from collections.abc import Iterable

from refdesk.craft.course import Report, Step
from refdesk.craft.lesson import Exercise, Lesson
from refdesk.craft.question import SourceQuestion
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import Reading


def passage(title: str, text: str) -> Passage:
    return Passage(title, title, text, 0, len(text), 0.0)


def hall(number: int) -> Passage:
    text = f"Hall {number} is old. Its keeper is called Keeper{number}. The door of it was painted Colour{number}."
    return passage(f"Hall {number}", text)


def question(
    number: int, halls: int, kind: str = "keeper", distractors: int = 6, answerable: bool = True
) -> SourceQuestion:
    """About hall `number` of `halls`, with its next neighbours for hard distractors."""
    hard = [hall((number + step) % halls) for step in range(1, min(distractors + 1, halls))]
    own = hall(number)
    asked = {"keeper": "Who keeps", "colour": "Which colour has the door of", "roof": "Who built"}[kind]
    return SourceQuestion(
        id=f"{kind}-{number}",
        question=f"{asked} hall {number}?",
        answers=(f"{kind.capitalize()}{number}",) if answerable else (),
        oracles=(own,) if answerable else (),
        distractors=tuple(hard) if answerable else (own, *hard),
    )


def questions(count: int, unanswerable: int = 0, distractors: int = 6) -> list[SourceQuestion]:
    """One of each hall; `unanswerable` of them are asked over their hall, which does not say it."""
    answerable = count - unanswerable
    return [question(number, count, distractors=distractors) for number in range(answerable)] + [
        question(number, count, "roof", distractors, answerable=False) for number in range(answerable, count)
    ]


def lesson(reading: Reading, passages: int = 3, exercises: int = 3, first: int = 0) -> Lesson:
    """Of several forms; the passages and the answers are of different lengths."""
    halls = [hall(first + number) for number in range(passages)]
    shown = [passage(one.title, one.text + " It stands there." * (7 * i)) for i, one in enumerate(halls)]
    asked = [
        Exercise("who", f"Who keeps hall {first}?", f"Keeper{first}", oracles=(0,)),
        Exercise(
            "colour",
            f"Which colour has hall {first + 1}?",
            f"##begin_quote##The door of it is Colour{first + 1}.##end_quote##\n<ANSWER>: Colour{first + 1}",
            "quote",
            (1,),
        ),
        Exercise("roof", "Who built the roof?", "It cannot be found in the passages."),
        Exercise("ask", "Write a question.", "Question: Who?\nAnswer: Nobody.", kind="ask"),
    ]
    return Lesson(tuple(shown), reading, tuple(asked[:exercises]), "halls")


def keys(passages: Iterable[Passage]) -> list[str]:
    return [f"{one.title}|{one.text}" for one in passages]


class Killed(Exception):
    """What ends a training in these tests."""


def telling(kill_at: int | None = None) -> tuple[list[Step], Report]:
    """The steps, as they come, and who is told of them, to be killed at one."""
    told: list[Step] = []

    def report(step: Step) -> None:
        told.append(step)
        if step.step == kill_at:
            raise Killed

    return told, report
