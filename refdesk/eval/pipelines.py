"""Named ways to choose what the reader sees of a question's documents. The reader itself is the service's.

Each is a function from an example to what `QA` calls to retrieve, so the prompt, the engine and the citations are
those that serve users. A new one is a function and a line in `PIPELINES`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from refdesk.compressor.options import compression_options
from refdesk.craft.question import holds
from refdesk.eval.example import Document, Example, Span
from refdesk.memory.options import memory_options
from refdesk.reader.errors import PromptTooLong
from refdesk.reader.passage import Passage
from refdesk.reader.qa import Retrieve

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.reader.model import ReaderModel

# Documents whose tokens are counted once: a corpus, or an article that many questions are asked about.
_REMEMBERED = 32


@dataclass
class Workbench:
    """What a pipeline works with. `budget`, `window` and `max_new_tokens` in tokens of `model`; `window` None
    where what is given may be longer, for it is compressed or thinned. `retrieve` searches the collection that
    holds the documents; `corpus` gives the documents that all questions share, by id."""

    model: "ReaderModel"
    budget: int
    window: int | None
    max_new_tokens: int
    retrieve: Retrieve
    corpus: Callable[[], dict[str, Document]]
    _offsets: dict[str, NDArray[np.int32]] = field(default_factory=dict)

    def documents(self, example: Example) -> dict[str, Document]:
        """What the question is asked about, by id and in order."""
        return {document.id: document for document in example.documents} or self.corpus()

    def relevant(self, example: Example) -> dict[str, Document]:
        """Those of them that the question is about."""
        return {id: document for id, document in self.documents(example).items() if id in example.relevance}

    def offsets(self, document: Document) -> NDArray[np.int32]:
        """Where each token of the text begins and ends, in characters: `[tokens, 2]`."""
        if document.id not in self._offsets:
            while len(self._offsets) >= _REMEMBERED:
                del self._offsets[next(iter(self._offsets))]
            encoding = self.model.literal_tokenizer.encode(document.text, add_special_tokens=False)
            self._offsets[document.id] = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return self._offsets[document.id]


Select = Callable[[Example, Workbench], Retrieve]


@dataclass(frozen=True)
class Pipeline:
    """`sees_question`: what the reader sees depends on the question. `indexed`: documents are ingested, and
    found by search; otherwise they are given, and where they do not all fit the window the question has no
    answer, rather than one from what is left. `ranks`: they come best first. `needs`: what must be known of a
    question, `gold` or `relevance`. `remembers`: documents are held in memories, made with these options of
    `reader.remember.RememberOptions`, and what the question attends to is read; or nothing is, and the answer
    `attends` to them as far as the budget goes."""

    summary: str
    sees_question: bool
    select: Select
    indexed: bool = False
    ranks: bool = False
    needs: Literal["", "gold", "relevance"] = ""
    closed_book: bool = False
    remembers: Mapping[str, Any] | None = None
    attends: bool = False

    def knows_enough(self, example: Example) -> bool:
        """Whether what the pipeline needs to know of a question is known."""
        return not self.needs or bool(getattr(example, self.needs))


def _closed_book(example: Example, bench: Workbench) -> Retrieve:
    return _given(())


def _oracle(example: Example, bench: Workbench) -> Retrieve:
    documents = bench.documents(example)
    return _given([_passage(documents[span.document_id], span.start, span.end) for span in example.gold])


def _oracle_k(example: Example, bench: Workbench) -> Retrieve:
    documents = bench.documents(example)
    gold = [_passage(documents[span.document_id], span.start, span.end) for span in example.gold]

    def retrieve(question: str, k: int, _documents: tuple[str, ...] | None) -> Sequence[Passage]:
        # Among four times as many there are enough that are wrong, or there are no more.
        wrong = [
            passage
            for passage in bench.retrieve(question, 4 * k, None)
            if not any(passage.overlaps(one) for one in gold) and not holds(passage.text, example.answers)
        ]
        chosen = gold + wrong[: max(k - len(gold), 0)]
        return random.Random(example.id).sample(chosen, len(chosen))

    return retrieve


def _full(example: Example, bench: Workbench) -> Retrieve:
    documents = bench.documents(example).values()
    length = sum(len(bench.offsets(document)) for document in documents)
    # A million tokens need not go through the prompt to be too long.
    if bench.window is not None and length + bench.max_new_tokens > bench.window:
        raise PromptTooLong(length, bench.max_new_tokens, bench.window, "the full context")
    return _given([_passage(document, 0, len(document.text)) for document in documents])


def _truncation(example: Example, bench: Workbench) -> Retrieve:
    documents = list(bench.documents(example).values())
    length = sum(len(bench.offsets(document)) for document in documents)
    if length <= bench.budget:
        return _given([_passage(document, 0, len(document.text)) for document in documents])
    tail = bench.budget // 2
    kept = []
    before = 0
    for document in documents:
        offsets = bench.offsets(document)
        ends_at = bench.budget - tail - before  # tokens of the head that lie in this document
        begins_at = length - tail - before
        if ends_at > 0:
            kept.append(_passage(document, 0, int(offsets[min(ends_at, len(offsets)) - 1][1])))
        if begins_at < len(offsets):
            kept.append(_passage(document, int(offsets[max(begins_at, 0)][0]), int(offsets[-1][1])))
        before += len(offsets)
    return _given(kept)


def _top_k(example: Example, bench: Workbench) -> Retrieve:
    return _among(bench.retrieve, [document.id for document in example.documents] or None)


def _top_k_gold(example: Example, bench: Workbench) -> Retrieve:
    return _among(bench.retrieve, list(example.relevance))


def _among(retrieve: Retrieve, sources: Sequence[str] | None) -> Retrieve:
    """Retrieval within `sources`, whatever the request says."""
    only = None if sources is None else tuple(sources)
    return lambda question, k, _documents: retrieve(question, k, only)


def _given(passages: Sequence[Passage]) -> Retrieve:
    """No search: these passages, whatever is asked."""
    return lambda _question, _k, _documents: passages


def _passage(document: Document, start: int, end: int) -> Passage:
    return Passage(document.id, document.title, document.text[start:end], start, end, score=0.0)


def spans(passages: Sequence[Passage]) -> tuple[Span, ...]:
    """What is read of the passages, in their documents."""
    return tuple(
        Span(passage.document_id, passage.start + start, passage.start + end)
        for passage in passages
        for start, end in passage.ranges
    )


def sees_question(pipeline: str, settings: Mapping[str, Any]) -> bool:
    """Whether what the reader holds depends on the question: by what is retrieved, what is taken out, or what is
    evicted. `settings` as in `Run`."""
    chosen = PIPELINES[pipeline]
    if chosen.closed_book:
        return False
    compression = compression_options(settings.get("compression"))
    memory = memory_options(settings.get("memory") or {"policy": "none"})
    policy, apart = memory.policy, settings.get("reading") == "apart"
    if policy is not None:
        return chosen.sees_question or compression.asks or (policy.asks if apart else policy.sees_question)
    return chosen.sees_question or compression.asks or (memory.auto and not apart)


PIPELINES: dict[str, Pipeline] = {
    "closed_book": Pipeline(
        "the question alone: what the model knows by itself", False, _closed_book, closed_book=True
    ),
    "oracle": Pipeline(
        "the gold passages alone: what a perfect retriever would give", True, _oracle, needs="gold"
    ),
    "oracle_k": Pipeline(
        "the gold passages among the best wrong chunks, k in all, in random order",
        True,
        _oracle_k,
        indexed=True,
        needs="gold",
    ),
    "truncation": Pipeline("the first and the last half of the budget, the middle cut out", False, _truncation),
    "top_k": Pipeline("the k best chunks, as the service retrieves them", True, _top_k, indexed=True, ranks=True),
    "top_k_gold": Pipeline(
        "the k best chunks of the relevant documents",
        True,
        _top_k_gold,
        indexed=True,
        ranks=True,
        needs="relevance",
    ),
    "full": Pipeline(
        "every document, in order; no answer if they do not fit the window, unless compressed or thinned",
        False,
        _full,
    ),
    "document": Pipeline(
        "the k chunks of whole documents that the question attends to most and that are most similar to it",
        True,
        _closed_book,
        remembers={},
    ),
    "document_locret": Pipeline(
        "the same over an eighth of their entries, chosen by retaining heads",
        True,
        _closed_book,
        remembers={"rate": 8.0, "keep": "locret"},
    ),
    "document_infinipot": Pipeline(
        "the same over an eighth of their entries, chosen by InfiniPot",
        True,
        _closed_book,
        remembers={"rate": 8.0, "keep": "infinipot"},
    ),
    "document_gold": Pipeline(
        "the same k chunks of the relevant documents, held whole",
        True,
        _closed_book,
        needs="relevance",
        remembers={},
    ),
    "attended": Pipeline(
        "whole documents, of which the answer attends to as many entries as the budget has tokens",
        True,
        _closed_book,
        remembers={},
        attends=True,
    ),
}
