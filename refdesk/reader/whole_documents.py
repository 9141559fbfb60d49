"""Answering over whole documents: what the model remembers of them stands where passages would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import encode_segments

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
    """A document as it is read: `tokens`, and of each where it begins in the text, `[tokens]`, in characters."""

    tokens: tuple[int, ...]
    starts: NDArray[np.int32]


def encode_document(title: str, text: str, model: "ReaderModel") -> EncodedDocument:
    """As a passage that holds all of it would be read."""
    head = f"Title: {title}\n"
    front = len(text) - len(text.lstrip()) - len(head)
    encoding = model.literal_tokenizer.encode(f"{head}{text.strip()}\n\n", add_special_tokens=False)
    starts = np.asarray([start for start, _ in encoding.offsets], dtype=np.int32) + front
    return EncodedDocument(tuple(encoding.ids), starts.clip(0, max(len(text) - 1, 0)))


def document_front(model: "ReaderModel") -> tuple[tuple[int, ...], ...]:
    """What stands in front of documents as they are read, and of the questions that attend to them."""
    return (encode_segments("", (), model, open_book=True).before,)


def most_attended(
    attended: torch.Tensor, starts: NDArray[np.integer[Any]], spans: Sequence[tuple[int, int]], count: int
) -> list[int]:
    """Which `count` of the stretches `spans` `[start, end)` of a text were attended to most, best first: by the
    mean over their tokens, which begin at `starts`. Stretches without a token are none."""
    mass = attended.double().cpu().numpy()
    means = []
    for index, (start, end) in enumerate(spans):
        first, last = np.searchsorted(starts, (start, end))
        if first < last:
            means.append((float(mass[first:last].mean()), index))
    return [index for _, index in sorted(means, key=lambda one: (-one[0], one[1]))[:count]]


def most_attended_of_all(
    attended: Attended,
    starts: Sequence[NDArray[np.integer[Any]]],
    spans: Sequence[Sequence[tuple[int, int]]],
    count: int,
) -> list[tuple[int, int]]:
    """The same over several documents, each with its own: the numbers of a document and of a stretch of it."""
    ends = [max((int(of[-1]), *(end for _, end in some))) + 1 for of, some in zip(starts, spans, strict=True)]
    firsts = [sum(ends[:number]) for number in range(len(ends))]  # the texts stand one behind the other
    places = [(number, index) for number, some in enumerate(spans) for index in range(len(some))]
    shifted = [
        (first + start, first + end) for first, some in zip(firsts, spans, strict=True) for start, end in some
    ]
    joined = np.concatenate([of.astype(np.int64) + first for of, first in zip(starts, firsts, strict=True)])
    return [places[index] for index in most_attended(torch.cat(list(attended)), joined, shifted, count)]
