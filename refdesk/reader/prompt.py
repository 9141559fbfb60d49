"""Question and passages, made into what the model reads.

A prompt is made of segments: what stands before the passages, each passage, the question. Together they are read
as one text; apart, every passage behind the first segment and blind to the others, which lets requests share it. A
passage carries its title but no rank, so its segment is the same in every request that uses it. Nothing is cut
silently: a passage is read whole or not at all, and `Prompt.dropped` names those that are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from jinja2 import TemplateError

from refdesk.reader.answer_form import AnswerForm, ask_in_form
from refdesk.reader.errors import InvalidOption, PromptTooLong
from refdesk.reader.passage import Passage

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.reader.model import ReaderModel

Reading = Literal["together", "apart"]
AskedReading = Literal["together", "apart", "auto"]

_SYSTEM = (
    "You are a reference desk. Answer the question in one short sentence, using only the passages."
    " If the passages do not answer it, say that it cannot be found in them."
)
_SYSTEM_CLOSED_BOOK = "Answer the question in one short sentence."
_MARK = "\u2063refdesk\u2063"  # stands for the content while the chat template is rendered


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads: `system`, `passages` (one segment each, of those `used`), `question`, in token ids.
    `dropped` did not fit, best first in both. `reading`: how the passages are to be read."""

    system: tuple[int, ...]
    passages: tuple[tuple[int, ...], ...]
    question: tuple[int, ...]
    used: tuple[Passage, ...]
    dropped: tuple[Passage, ...]
    reading: Reading

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All of it in one piece."""
        return self.system + sum(self.passages, ()) + self.question


def check_reading(reading: str) -> None:
    """Raise `InvalidOption` for a reading that there is not."""
    if reading not in get_args(AskedReading):
        raise InvalidOption("reading", reading, f"one of {', '.join(get_args(AskedReading))}")


def build_prompt(
    question: str,
    passages: Sequence[Passage],
    model: "ReaderModel",
    max_new_tokens: int,
    reading: AskedReading = "auto",
    form: AnswerForm = "short",
) -> Prompt:
    """The longest prompt that leaves room for `max_new_tokens` in the model's window.

    `passages` come best first. Read together, the worst are dropped until the rest fits; read apart, they stand at
    the same positions, and only a passage is dropped that does not fit by itself. `auto` is together if all of
    them fit so, else apart. Without any passages, the model is asked what it knows by itself.

    Raises:
        PromptTooLong: the question alone does not fit, or not even with the best passage only.
        InvalidOption: an unknown reading, or a model whose chat template has no use for a user's text as it is.
    """
    check_reading(reading)
    ranked = tuple(passages)
    before, after = _frame(model, _SYSTEM if ranked else _SYSTEM_CLOSED_BOOK)
    asked = _text(ask_in_form(question, form), model) + after
    segments = [_text(f"Title: {passage.title}\n{passage.text.strip()}\n\n", model) for passage in ranked]
    room = model.window - max_new_tokens - len(before) - len(asked)
    if room < 0:
        raise PromptTooLong(len(before) + len(asked), max_new_tokens, model.window, "the question")
    if reading == "auto":
        reading = "together" if sum(map(len, segments)) <= room else "apart"
    if reading == "together":
        fitting = [index for index in range(len(ranked)) if sum(map(len, segments[: index + 1])) <= room]
    else:
        fitting = [index for index, segment in enumerate(segments) if len(segment) <= room]
    if ranked and 0 not in fitting:
        least = len(before) + len(segments[0]) + len(asked)
        raise PromptTooLong(least, max_new_tokens, model.window, "the question with the best passage")
    return Prompt(
        system=before,
        passages=tuple(segments[index] for index in fitting),
        question=asked,
        used=tuple(ranked[index] for index in fitting),
        dropped=tuple(passage for index, passage in enumerate(ranked) if index not in fitting),
        reading=reading,
    )


def _frame(model: "ReaderModel", system: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before and behind the content, in the model's own chat format, ready for the answer."""
    plain = model.tokenizer.chat_template is None
    if plain:  # a base model: plain text, its own first token if it has one
        before, after = f"{system}\n\n", "\nAnswer:"
    else:
        before, after = _chat(model, system)
    return (
        tuple(model.tokenizer.encode(before, add_special_tokens=plain)),
        tuple(model.tokenizer.encode(after, add_special_tokens=False)),
    )


def _chat(model: "ReaderModel", system: str) -> tuple[str, str]:
    """The chat before and behind the content. Where the template refuses a system message or leaves it out, its
    text stands in the user's, in front of the content.

    Raises:
        InvalidOption: the template has no place for a user's text, several, or one where the text is altered.
    """
    of_its_own = [{"role": "system", "content": system}, {"role": "user", "content": _MARK}]
    within = [{"role": "user", "content": f"{system}\n\n{_MARK}"}]
    refused: TemplateError | None = None
    for messages in (of_its_own, within):
        try:
            chat: str = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            refused = error
            continue
        if system in chat and chat.count(_MARK) == 1:
            before, after = chat.split(_MARK)
            return before, after
    raise InvalidOption(
        "model", model.name, "one whose chat template shows a user's text once and as it is"
    ) from refused


def _text(text: str, model: "ReaderModel") -> tuple[int, ...]:
    """Somebody's text. One that spells out a control token would end its own message and speak as the system, so
    the spelling is read as plain characters."""
    return tuple(model.literal_tokenizer.encode(text, add_special_tokens=False).ids)


def encode_answer(text: str, model: "ReaderModel") -> tuple[int, ...]:
    """The token ids of an answer as it stands behind the prompt."""
    # A template ends with a new line, plain text with "Answer:".
    space = " " if model.tokenizer.chat_template is None else ""
    return _text(space + text.strip(), model)
