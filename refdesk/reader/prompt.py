"""Question and passages, made into what the model reads.

Nothing is cut silently: a passage is read whole or not at all, and `Prompt.dropped` names those that are not. A
passage carries its title but no rank, so its text is the same in every request that uses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from refdesk.reader.errors import PromptTooLong
from refdesk.reader.passage import Passage

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.reader.model import ReaderModel

_SYSTEM = (
    "You are a reference desk. Answer the question in one short sentence, using only the passages."
    " If the passages do not answer it, say that it cannot be found in them."
)
_SYSTEM_CLOSED_BOOK = "Answer the question in one short sentence."
_MARK = "\u2063refdesk\u2063"  # stands for the content while the chat template is rendered


@dataclass(frozen=True, slots=True)
class Prompt:
    """`token_ids` is what the model reads, made of `used`; `dropped` did not fit, best first in both."""

    token_ids: tuple[int, ...]
    used: tuple[Passage, ...]
    dropped: tuple[Passage, ...]


def build_prompt(question: str, passages: Sequence[Passage], model: "ReaderModel", max_new_tokens: int) -> Prompt:
    """The longest prompt that leaves room for `max_new_tokens` in the model's window.

    `passages` come best first. The worst are dropped until the rest fits. Without any, the model is asked what it
    knows by itself.

    Raises:
        PromptTooLong: the question alone does not fit, or not even with the best passage only.
    """
    room = model.window - max_new_tokens
    alone = _encode(question, (), model)
    if len(alone) > room:
        raise PromptTooLong(len(alone), max_new_tokens, model.window, "the question")
    ranked = tuple(passages)
    fitting, too_many = 0, len(ranked) + 1  # how many certainly fit, how many certainly do not
    ids = alone
    while too_many - fitting > 1:
        # All of them first, because they mostly fit; then halving, so a hundred passages take seven tries.
        tried = len(ranked) if too_many > len(ranked) else (fitting + too_many) // 2
        attempt = _encode(question, ranked[:tried], model)
        if len(attempt) <= room:
            fitting, ids = tried, attempt
        else:
            too_many = tried
    if ranked and not fitting:
        least = len(_encode(question, ranked[:1], model))
        raise PromptTooLong(least, max_new_tokens, model.window, "the question with the best passage")
    return Prompt(tuple(ids), ranked[:fitting], ranked[fitting:])


def _encode(question: str, passages: tuple[Passage, ...], model: "ReaderModel") -> list[int]:
    """The conversation in the model's own chat format, ready for the answer's first token."""
    stretches = [f"Title: {passage.title}\n{passage.text.strip()}" for passage in passages]
    content = "\n\n".join([*stretches, f"Question: {question.strip()}"])
    system = _SYSTEM if passages else _SYSTEM_CLOSED_BOOK
    messages = [{"role": "system", "content": system}, {"role": "user", "content": _MARK}]
    if model.tokenizer.chat_template is None:  # a base model: plain text, its own first token if it has one
        before, after = f"{system}\n\n", "\nAnswer:"
    else:
        rendered: str = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        before, after = rendered.split(_MARK)
    plain = model.tokenizer.chat_template is None
    if not any(token in content for token in model.control_tokens):
        text_ids: list[int] = model.tokenizer.encode(before + content + after, add_special_tokens=plain)
        return text_ids
    # A text that spells out a control token would end its own message and speak as the system. Such a content is
    # encoded apart, with the spelling read as plain characters.
    return [
        *model.tokenizer.encode(before, add_special_tokens=plain),
        *model.literal_tokenizer.encode(content, add_special_tokens=False).ids,
        *model.tokenizer.encode(after, add_special_tokens=False),
    ]


def encode_answer(text: str, model: "ReaderModel") -> tuple[int, ...]:
    """The token ids of an answer as it stands behind the prompt."""
    space = (
        " " if model.tokenizer.chat_template is None else ""
    )  # behind "Answer:", a template ends with a new line
    return tuple(model.literal_tokenizer.encode(space + text.strip(), add_special_tokens=False).ids)
