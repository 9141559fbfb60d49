"""Answering over whole documents: what the model remembers of them is attended to, or says which passages to
read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from refdesk.memory.document_memory import DocumentMemory
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import Looking
from refdesk.memory.unlimiformer import Recall, RecallRequest
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import encode_segments, passage_head, passage_text
from refdesk.reader.retrieval_heads import Heads, in_layers
from refdesk.reader.submission import Submit, generated

if TYPE_CHECKING:
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel

Attended = Sequence[torch.Tensor]
"""How much each token of each document was attended to, `[tokens]` each."""


@dataclass(frozen=True)
class WholeDocuments:
    """What an answer is made over. `passages(attended, count, question)`: what of it was attended to most, best
    first; given a question, how similar each is to it counts as much. `read`: the question alone attends to the
    memories, and the passages that are found so are read as any others; else the answer attends to them itself,
    and the passages are only cited."""

    recall: RecallRequest
    passages: Callable[[Attended, int, str | None], Sequence[Passage]]
    read: bool = True

    def find(
        self, question: str, count: int, model: "ReaderModel", adapter: "Adapter | None", submit: Submit
    ) -> tuple[Passage, ...]:
        """The `count` passages that the question attends to most and that are most similar to it. Raises what
        `look` raises."""
        return tuple(self.passages(look(self.recall, question, model, adapter, submit).attended, count, question))


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


def looking_through(
    memories: tuple[DocumentMemory, ...], how: Looking, heads: Heads | None, window: int
) -> RecallRequest:
    """Memories as questions look through them: by the retrieval `heads` of the model, where such are known.
    Places that are scaled take three quarters of its `window`.

    Raises:
        InvalidMemory: see RecallRequest; or the true places of a document reach beyond the window.
    """
    recall = RecallRequest(memories, how.entries, how.places, window * 3 // 4)
    if how.places == "true" and recall.width >= window:
        raise InvalidMemory(
            f"places is 'true', but a document takes {recall.width} tokens and the model's window is {window};"
            " expected clipped or scaled"
        )
    return replace(recall, heads=in_layers(heads, recall.memories[0].plan.retrieving))


def look(
    asked: RecallRequest, question: str, model: "ReaderModel", adapter: "Adapter | None", submit: Submit
) -> Recall:
    """Where a question looks in memories: it is read, and nothing is answered.

    Raises:
        Interrupted: that was cancelled, or late.
        MemoryMismatch: others than `model` and `adapter` made the memories.
        PromptTooLong, MemoryTooSmall, EngineClosed: see `Engine.submit`.
    """
    segments = encode_segments(question, (), model, open_book=True)
    request = GenerationRequest(
        segments.asked, max_new_tokens=1, front=(segments.before,), adapter=adapter, recall=asked
    )
    recall = generated(submit, [request])[0].recall
    assert recall is not None, "memories were given"
    return recall


def most_attended(
    attended: Attended,
    starts: Sequence[NDArray[np.integer[Any]]],
    spans: Sequence[Sequence[tuple[int, int]]],
    count: int,
    similar: Sequence[Sequence[float]] | None = None,
) -> list[tuple[int, int]]:
    """Which `count` stretches of documents were attended to most, best first: the numbers of a document and of one
    of its `spans` `[start, end)`, by the mean over the tokens in it. `starts`: where the tokens of each document
    begin. Stretches without a token are none. `similar`: how similar each of the spans is to what is looked for;
    both are then added as z-scores, for each finds what the other misses (docs/results.md)."""
    places, means, alike = [], [], []
    for number, (of_one, begins, some) in enumerate(zip(attended, starts, spans, strict=True)):
        mass = of_one.double().cpu().numpy()
        for index, (start, end) in enumerate(some):
            first, last = np.searchsorted(begins, (start, end))
            if first < last:
                places.append((number, index))
                means.append(float(mass[first:last].mean()))
                alike.append(0.0 if similar is None else similar[number][index])
    scores = np.asarray(means) if similar is None else z_scores(means) + z_scores(alike)
    return [places[place] for place in np.argsort(-scores, kind="stable")[:count]]


def z_scores(numbers: Sequence[float] | NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Numbers with the mean 0 and the deviation 1; all 0 where they are alike."""
    found = np.asarray(numbers, dtype=np.float64)
    spread = found - (found.mean() if len(found) else 0.0)
    return spread / max(float(np.sqrt((spread**2).mean())) if len(found) else 0.0, 1e-12)
