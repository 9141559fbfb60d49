"""Answering over whole documents: what the model remembers of them stands where passages would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import encode_segments, passage_head, passage_text

if TYPE_CHECKING:
    from refdesk.reader.model import ReaderModel

Attended = Sequence[torch.Tensor]
"""How much each token of each document was attended to, `[tokens]` each."""


@dataclass(frozen=True)
class WholeDocuments:
    """What an answer attends to in place of passages. `passages`: what of it was attended to most, to be cited."""

    recall: RecallRequest
    passages: Callable[[Attended], Sequence[Passage]]


@dataclass(frozen=True)
class EncodedDocument:
    """A document as it is read: `tokens`, and of each where it begins in the text, `[tokens]`, in characters and
    ascending; -1 for those of the title, which are in no stretch of the text."""

    tokens: tuple[int, ...]
    starts: NDArray[np.int32]


def encode_document(title: str, text: str, model: "ReaderModel") -> EncodedDocument:
    """As a passage that holds all of it would be read."""
    head = passage_head(title)
    front = len(text) - len(text.lstrip()) - len(head)
    encoding = model.literal_tokenizer.encode(passage_text(title, text), add_special_tokens=False)
    begins = np.asarray([start for start, _ in encoding.offsets], dtype=np.int32)
    starts = np.where(begins < len(head), -1, (begins + front).clip(max=len(text) - 1))
    return EncodedDocument(tuple(encoding.ids), starts)


def document_front(model: "ReaderModel") -> tuple[tuple[int, ...], ...]:
    """What stands in front of documents as they are read, and of the questions that attend to them."""
    return (encode_segments("", (), model, open_book=True).before,)


def most_attended(
    attended: Attended,
    starts: Sequence[NDArray[np.integer[Any]]],
    spans: Sequence[Sequence[tuple[int, int]]],
    count: int,
) -> list[tuple[int, int]]:
    """Which `count` stretches of documents were attended to most, best first: the numbers of a document and of one
    of its `spans` `[start, end)`, by the mean over the tokens in it. `starts`: where the tokens of each document
    begin. Stretches without a token are none."""
    means = []
    for number, (of_one, begins, some) in enumerate(zip(attended, starts, spans, strict=True)):
        mass = of_one.double().cpu().numpy()
        for index, (start, end) in enumerate(some):
            first, last = np.searchsorted(begins, (start, end))
            if first < last:
                means.append((-float(mass[first:last].mean()), number, index))
    return [(number, index) for _, number, index in sorted(means)[:count]]
