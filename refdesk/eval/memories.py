"""Documents of questions, read whole into memories that questions look through, or answers attend to."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from refdesk.eval.desk import Desk
from refdesk.eval.example import Document
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import Looking
from refdesk.reader.passage import Passage
from refdesk.retriever.chunk import Span, chunk_text
from refdesk.retriever.ingest import headed

if TYPE_CHECKING:  # torch takes seconds to import
    from refdesk.memory.document_memory import DocumentMemory
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.remember import RememberOptions
    from refdesk.reader.whole_documents import Attended, EncodedDocument, WholeDocuments

_CHUNK = 200  # tokens of a stretch that is found, as a chunk of a collection has at most
_HELD_BYTES = 2**31


@dataclass(frozen=True)
class _Remembered:
    """A document in memory, and the stretches of it that can be found, with their vectors `[spans, dimension]`."""

    document: Document
    encoded: "EncodedDocument"
    memory: "DocumentMemory"
    spans: list[Span]
    vectors: NDArray[np.float32]


class Memories:
    """Memories in RAM of the documents that are asked about, each made when it is first asked about; of the oldest
    no more are held than 2 GiB, beside those in use. `heads` thin them, where
    `options` have it. `progress` is called after every chunk that is read; what it raises ends the reading."""

    def __init__(
        self,
        desk: Desk,
        options: "RememberOptions",
        adapter: "Adapter | None",
        heads: "RetainingHeads | None",
        progress: Callable[[], None],
    ) -> None:
        self._model, self._engine = desk.reader
        self._retrieval_heads = desk.retrieval_heads
        self._options = options
        self._adapter = adapter
        self._heads = heads
        self._embedder = desk.embedder
        self._progress = progress
        self._held: OrderedDict[str, _Remembered] = OrderedDict()

    def whole(self, documents: Sequence[Document], attended: int | None = None) -> "WholeDocuments":
        """What an answer is made over: what the question attends to in the documents is read. Or the answer
        attends to them, in each layer and KV head to `attended` entries of them all, of each those that are near
        and of the rest those that are looked for.

        Raises:
            InvalidMemory: what is near leaves none of them to look for, or the machine has no room for them all.
            Interrupted, EngineClosed: the engine is closed.
        """
        from refdesk.reader.whole_documents import WholeDocuments, looking_through, most_attended

        found = [self._remembered(document) for document in documents]
        near = sum(one.memory.plan.held_near for one in found)
        if attended is not None and attended <= near:
            raise InvalidMemory(
                f"budget is {attended}, but the {len(found)} documents have {near} entries that are near and"
                " attended to in any case; expected more than these"
            )

        def passages(mass: "Attended", count: int, question: str | None) -> list[Passage]:
            starts, spans = [one.encoded.starts for one in found], [one.spans for one in found]
            similar = None
            if question is not None:
                asked = np.asarray(self._embedder.embed_query(question), dtype=np.float32)
                similar = [(one.vectors @ asked).tolist() for one in found]
            return [
                _passage(found[number].document, spans[number][index])
                for number, index in most_attended(mass, starts, spans, count, similar)
            ]

        how = Looking() if attended is None else Looking(attended - near)
        memories = tuple(one.memory for one in found)
        recall = looking_through(memories, how, self._retrieval_heads, self._model.window)
        return WholeDocuments(recall, passages, read=attended is None)

    def _remembered(self, document: Document) -> _Remembered:
        from refdesk.reader.remember import remember
        from refdesk.reader.whole_documents import document_front, encode_document

        if document.id not in self._held:
            while sum(one.memory.plan.bytes for one in self._held.values()) > _HELD_BYTES:
                self._held.popitem(last=False)
            encoded = encode_document(document.title, document.text, self._model)
            memory = remember(
                self._engine.submit,
                self._model,
                encoded.tokens,
                document_front(self._model),
                self._options,
                adapter=self._adapter,
                heads=self._heads,
                progress=lambda _: self._progress(),
            )
            spans = chunk_text(document.text, _CHUNK, 0, self._embedder.count_tokens)
            texts = [headed(document.title, document.text[one.start : one.end]) for one in spans]
            vectors = np.asarray(self._embedder.embed_documents(texts), dtype=np.float32)
            vectors = vectors.reshape(len(texts), self._embedder.dimension)  # of none, too
            self._held[document.id] = _Remembered(document, encoded, memory, spans, vectors)
        self._held.move_to_end(document.id)
        return self._held[document.id]


def _passage(document: Document, span: Span) -> Passage:
    return Passage(document.id, document.title, document.text[span.start : span.end], *span, score=0.0)
