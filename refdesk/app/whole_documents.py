"""Whole documents for an answer: their memories, and which of their passages are looked at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from refdesk.app.document_reading import Desk
from refdesk.app.memories import MemoryNotFound
from refdesk.app.passages import passages_of
from refdesk.memory.options import Looking
from refdesk.reader.passage import Passage
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import Document

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel
    from refdesk.reader.whole_documents import Attended, WholeDocuments


def reader_fingerprint(model: "ReaderModel", adapter: "Adapter | None") -> str:
    """Of who makes memories of documents and attends to them."""
    from refdesk.reader.remember import reader_of
    from refdesk.reader.whole_documents import document_front

    return reader_of(model, adapter, document_front(model))


def whole_documents(
    desk: Desk,
    collection: Collection,
    documents: Sequence[Document],
    adapter: "Adapter | None",
    how: Looking,
    read: bool,
) -> "WholeDocuments":
    """What an answer is made over: these documents of the collection. `read`: what the question looks at is;
    else the answer attends to all of them.

    Raises:
        MemoryNotFound: some have no memory for this model and adapter.
        InvalidMemory: see `reader.whole_documents.looking_through`.
    """
    from refdesk.reader.whole_documents import WholeDocuments, looking_through, most_attended

    reader = reader_fingerprint(desk.reader[0], adapter)
    opened = [desk.memories.open(document, reader) for document in documents]
    found = [one for one in opened if one is not None]
    if len(found) < len(documents):
        missing = [document.source_id for document, one in zip(documents, opened, strict=True) if one is None]
        raise not_remembered(desk, collection, missing, adapter)
    store = desk.open_store(collection)

    def passages(attended: "Attended", count: int, question: str | None) -> list[Passage]:
        chunks = [store.spans(document.id) for document in documents]
        spans = [[(start, end) for _, start, end in some] for some in chunks]
        similar = None
        if question is not None:
            known = store.similarity(question, [document.id for document in documents])
            similar = [[known.get(chunk, 0.0) for chunk, _, _ in some] for some in chunks]
        best = most_attended(attended, [one.starts for one in found], spans, count, similar)
        scores = {chunks[number][index][0]: 1 / rank for rank, (number, index) in enumerate(best, start=1)}
        return passages_of(desk.engine, store.hits(scores, count))

    memories = tuple(one.memory for one in found)
    recall = looking_through(memories, how, desk.retrieval_heads, desk.reader[0].window)
    return WholeDocuments(recall, passages, read)


def not_remembered(
    desk: Desk, collection: Collection, sources: Sequence[str], adapter: "Adapter | None"
) -> MemoryNotFound:
    """The error that names documents without a memory, and how to make one."""
    name = "no adapter" if adapter is None else f"adapter {adapter.name!r}"
    return MemoryNotFound(
        f"no memory by {desk.reader[0].name} with {name} of {', '.join(map(repr, sources))}; make one by"
        f" POST /v1/collections/{collection.name}/memories, or refdesk remember -c {collection.name}"
    )
