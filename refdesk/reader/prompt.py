"""Question and passages, made into what the model reads.

A prompt is made of segments: what stands before the passages, each passage, the question. Together they are read
as one text; apart, every passage behind the first segment and blind to the others, which lets requests share it;
for the question they stand in line, one behind the other, if the window has room for that. A passage carries its
title but no rank, so its segment is the same in every request that uses it. Nothing is cut silently: a passage is
read whole, or what a request's compression left of it, or not at all; `Prompt.dropped` names those that are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Literal, get_args

from jinja2 import TemplateError

from refdesk.memory.allotment import Layout
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions
from refdesk.memory.policy import MOST_OBSERVED, Catalyst
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
_SUM_UP = "Sum up the critical points of what was said so far."
_MARK = "\u2063refdesk\u2063"  # stands for the content while the chat template is rendered


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads: `system`, `passages` (one segment each, of those `used`), `question`, in token ids.
    `dropped` did not fit, best first in both. `reading`: how the passages are to be read. `catalyst`: what the
    memory's policy wants read behind each chunk. Where the policy wants the question first, it ends `system`.
    `in_line`: passages read apart stand one behind the other for the question, else all at the same positions."""

    system: tuple[int, ...]
    passages: tuple[tuple[int, ...], ...]
    question: tuple[int, ...]
    used: tuple[Passage, ...]
    dropped: tuple[Passage, ...]
    reading: Reading
    catalyst: tuple[int, ...] = ()
    in_line: bool = False

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All of it in one piece."""
        return self.system + sum(self.passages, ()) + self.question

    @property
    def tokens(self) -> int:
        """How many they are."""
        return len(self.system) + sum(map(len, self.passages)) + len(self.question)


def check_reading(reading: str) -> None:
    """Raise `InvalidOption` for a reading that there is not."""
    if reading not in get_args(AskedReading):
        raise InvalidOption("reading", reading, f"one of {', '.join(get_args(AskedReading))}")


@dataclass(frozen=True, slots=True)
class Segments:
    """A question and passages in token ids, not yet fitted: `before` and `asked` stand around the passages,
    `ahead` is the question as it stands in front of them, `catalysts` what is read behind chunks, by its name."""

    before: tuple[int, ...]
    ahead: tuple[int, ...]
    passages: tuple[tuple[int, ...], ...]
    asked: tuple[int, ...]
    catalysts: Mapping[Catalyst, tuple[int, ...]]
    ranked: tuple[Passage, ...]

    def fitted(
        self,
        window: int,
        max_new_tokens: int,
        reading: AskedReading = "auto",
        *,
        memory: MemoryOptions = KEEP_EVERYTHING,
        chunk: int = 0,
        question_first: bool = False,
        moves: bool = False,
    ) -> Prompt:
        """The longest prompt that leaves room for `max_new_tokens` in the window, as `memory` holds what is read
        in chunks of `chunk`. `moves`: the model's entries can be given other positions. The rest as in
        `build_prompt`, which see. Raises InvalidMemory, besides, for a question that is too long to be read behind
        each chunk, and for a budget that is used up by what stands in front."""
        check_reading(reading)
        policy = memory.policy
        ahead = question_first or (policy is not None and policy.question_first)
        system = self.before + (self.ahead if ahead else ())
        catalyst = self.catalysts[policy.catalyst if policy is not None else "none"]
        if len(system) + len(self.asked) + max_new_tokens > window:
            raise PromptTooLong(len(system) + len(self.asked), max_new_tokens, window, "the question")
        if policy is not None and len(catalyst) > MOST_OBSERVED:
            raise InvalidMemory(
                f"memory policy is {policy.name}, which reads the question behind each chunk, and that takes"
                f" {len(catalyst)} tokens; expected {MOST_OBSERVED} at most, or another policy"
            )
        lengths = [len(passage) for passage in self.passages]

        def as_one() -> MemoryOptions:  # where passages and question are one text
            return memory.holding(len(self.asked))

        def fits(tokens: int, passages: tuple[int, ...] = (), parts: int = 1, in_line: bool = False) -> bool:
            held = memory if passages else as_one()
            layout = Layout(held, tokens, len(system), passages, parts, len(catalyst), in_line)
            return layout.end(chunk, max_new_tokens) <= window

        def fit_apart() -> list[bool]:
            fit, before = [True] * len(lengths), None
            while fit != before:  # those that are left share the budget, and so take more of the window
                before, parts = fit, len(set(compress(self.passages, fit)))
                fit = [kept and fits(len(self.asked), (n,), parts) for kept, n in zip(fit, lengths, strict=True)]
            return fit

        if not lengths:
            reading = "together"
        together = [] if reading == "apart" else [fits(total + len(self.asked)) for total in accumulate(lengths)]
        if reading == "auto":
            reading = "together" if all(together) else "apart"
        fit = together if reading == "together" else fit_apart()
        if lengths and not fit[0]:
            least = len(system) + lengths[0] + len(self.asked)
            raise PromptTooLong(least, max_new_tokens, window, "the question with the best passage")
        if reading == "together" and policy is not None and policy.compact:  # the system segment is held whole
            Layout(as_one(), sum(compress(lengths, fit)) + len(self.asked), len(system)).own.check()
        each = tuple(map(len, set(compress(self.passages, fit))))
        in_line = moves and reading == "apart" and fits(len(self.asked), each, len(each), in_line=True)
        return Prompt(
            system=system,
            passages=tuple(compress(self.passages, fit)),
            question=self.asked,
            used=tuple(compress(self.ranked, fit)),
            dropped=tuple(passage for passage, kept in zip(self.ranked, fit, strict=True) if not kept),
            reading=reading,
            catalyst=catalyst,
            in_line=in_line,
        )


def build_prompt(
    question: str,
    passages: Sequence[Passage],
    model: "ReaderModel",
    max_new_tokens: int,
    reading: AskedReading = "auto",
    form: AnswerForm = "short",
    *,
    question_first: bool = False,
) -> Prompt:
    """The longest prompt that leaves room for `max_new_tokens` in the model's window.

    `passages` come best first. Read together, the worst are dropped until the rest fits; read apart, only a
    passage is dropped that does not fit by itself: they stand in line, or else at the same positions. `auto` is
    together if all of them fit so, else apart. Without any passages, the model is asked what it knows by itself.
    `question_first`: the question stands also in front of the passages.

    Raises:
        PromptTooLong: the question alone does not fit, or not even with the best passage only.
        InvalidOption: an unknown reading, or a model whose chat template has no use for a user's text as it is.
    """
    segments = encode_segments(question, passages, model, form)
    moves = model.rotation is not None
    return segments.fitted(model.window, max_new_tokens, reading, question_first=question_first, moves=moves)


def encode_segments(
    question: str,
    passages: Sequence[Passage],
    model: "ReaderModel",
    form: AnswerForm = "short",
    *,
    open_book: bool = False,
) -> Segments:
    """`open_book`: what is asked about stands there, though there are no passages. Raises InvalidOption for a
    model whose chat template has no use for a user's text as it is."""
    ranked = tuple(passages)
    before, after = _frame(model, _SYSTEM if ranked or open_book else _SYSTEM_CLOSED_BOOK)
    text = ask_in_form(question, form)
    return Segments(
        before=before,
        ahead=_text(f"{text}\n\n", model),
        passages=tuple(_text(passage_text(one.title, one.read), model) for one in ranked),
        asked=_text(text, model) + after,
        catalysts={"none": (), "generic": encode_catalyst(model), "question": _text(text, model)},
        ranked=ranked,
    )


def passage_head(title: str) -> str:
    """What stands in front of a text's own."""
    return f"Title: {title}\n"


def passage_text(title: str, text: str) -> str:
    """A text under its title, as the model reads it."""
    return f"{passage_head(title)}{text.strip()}\n\n"


def encode_catalyst(model: "ReaderModel") -> tuple[int, ...]:
    """The request to sum up, whatever will be asked: the generic catalyst."""
    return _text(_SUM_UP, model)


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


def encode_message(system: str, text: str, model: "ReaderModel") -> tuple[int, ...]:
    """Somebody's text under other instructions, ready for the answer. Raises InvalidOption as `build_prompt`."""
    before, after = _frame(model, system)
    return before + _text(text, model) + after


def encode_answer(text: str, model: "ReaderModel") -> tuple[int, ...]:
    """The token ids of an answer as it stands behind the prompt."""
    # A template ends with a new line, plain text with "Answer:".
    space = " " if model.tokenizer.chat_template is None else ""
    return _text(space + text.strip(), model)
