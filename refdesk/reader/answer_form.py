"""The forms of an answer: short, long, or a quote and then the answer; how each is asked for, written and read."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from refdesk.reader.errors import InvalidOption

AnswerForm = Literal["short", "long", "quote"]

NOT_FOUND = "It cannot be found in the passages."
"""What a trained model says where the passages do not hold the answer."""

NOT_FOUND_OPENING = "It cannot be found"
"""Whatever begins so says the same."""

LONGEST_SHORT = 200
"""Characters: an answer of more is a long one."""

_ASKED: dict[AnswerForm, str] = {
    "short": "",
    "long": "\nAnswer at length, in several sentences.",
    "quote": "\nQuote the passages word for word, then answer.",
}
_ROOM: dict[AnswerForm, int] = {"short": 64, "long": 256, "quote": 160}
_QUOTE = re.compile(r"##begin_quote##(.*?)(?:##end_quote##|<ANSWER>:|\Z)", re.DOTALL)
_ANSWER = "<ANSWER>:"


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """What the model wrote, taken apart. `quotes` as it gave them, true or not. `well_formed`: whether it kept to
    the form; where it did not, `text` is all that can be made of it."""

    text: str
    quotes: tuple[str, ...] = ()
    well_formed: bool = True


def check_form(form: str) -> None:
    """Raise `InvalidOption` for a form that there is not."""
    if form not in get_args(AnswerForm):
        raise InvalidOption("form", form, f"one of {', '.join(get_args(AnswerForm))}")


def room_for(form: AnswerForm) -> int:
    """Tokens that nearly every answer of this form has room in."""
    return _ROOM[form]


def ask_in_form(question: str, form: AnswerForm) -> str:
    """The question as it stands in the prompt."""
    return f"Question: {question.strip()}{_ASKED[form]}"


def write_answer(answer: str, quote: str, form: AnswerForm) -> str:
    """An answer as a model is to write it (RAFT, arXiv 2403.10131; markers of its repository). Without a quote
    there is only the answer: nothing may be quoted that the passages do not say."""
    if form != "quote":
        return answer
    said = f"##begin_quote##{quote}##end_quote##\n" if quote else ""
    return f"{said}{_ANSWER} {answer}"


def read_answer(written: str, form: AnswerForm) -> WrittenAnswer:
    """Take apart what a model wrote. Of several answers the last one counts; without any marker it is malformed,
    and all of it is the answer. A quote is no part of that, wherever it stands."""
    if form != "quote":
        return WrittenAnswer(written.strip())
    quotes = tuple(quote.strip() for quote in _QUOTE.findall(written) if quote.strip())
    _, marker, answer = written.rpartition(_ANSWER)
    return WrittenAnswer(_QUOTE.sub("", answer).strip(), quotes, well_formed=bool(marker))
