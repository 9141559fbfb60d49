"""The one vector store: SQL holds chunks and vectors, a `VectorIndex` derived from it finds them.

An index may be stale, empty or of another process: before each search its ids are made equal to those
of SQL if the collection's revision has moved. That one mechanism covers ingestion, deletion, a crash
between two steps, a lost index file and a second process on the same data.
"""

import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from sqlalchemy import Connection, Engine, select

from refdesk import schema
from refdesk.database import transaction
from refdesk.retriever.collections import Collection, check_embedder
from refdesk.retriever.documents import (
    add_pending,
    content_hash,
    delete_document,
    get_document,
)
from refdesk.retriever.errors import InvalidSearch, UnknownCollection, UnknownDocument
from refdesk.retriever.index import VectorIndex
from refdesk.retriever.ingest import PassageEmbedder, from_bytes, ingest
from refdesk.retriever.lexical import lexical_search
from refdesk.retriever.parse import ParsedDocument

_chunk, _document = schema.chunk.c, schema.document.c
_REFRESH_BATCH = 4096
_HIT = (
    _chunk.id.label("chunk_id"),
    _chunk.document_id,
    _document.source_id,
    _document.title,
    _chunk.start,
    _chunk.end,
    _chunk.text,
)
_SAMPLE_BATCH = 500
_LARGEST_K = 1000
# Reciprocal rank fusion: score = sum over rankings of 1 / (60 + rank) (Cormack et al., SIGIR 2009).
_FUSION_CONSTANT = 60

Search = Literal["hybrid", "dense", "lexical"]


@dataclass(frozen=True)
class Hit:
    """A chunk that answers a search: `text` is `source_text[start:end]` of its document."""

    chunk_id: int
    document_id: str
    source_id: str
    title: str
    start: int
    end: int
    text: str
    score: float


class ChunkStore(VectorStore):
    """One collection, searchable; also a langchain-core `VectorStore`, whose document ids are source ids."""

    def __init__(
        self, engine: Engine, collection: Collection, embedder: PassageEmbedder, index: VectorIndex
    ) -> None:
        """Raises EmbedderMismatch when another embedder made the collection, UnknownCollection when it is gone."""
        check_embedder(
            engine,
            collection,
            embedder=embedder.name,
            dimension=embedder.dimension,
            fingerprint=embedder.fingerprint,
        )
        self.collection = collection
        self._engine = engine
        self._embedder = embedder
        self._index = index
        self._revision: int | None = None
        self._refreshing = threading.Lock()

    def retrieve(
        self, question: str, k: int, sources: Sequence[str] | None = None, *, search: Search = "hybrid"
    ) -> list[Hit]:
        """The `k` best chunks (all, if fewer exist), best first.

        `sources`: ids of the documents (or their source ids) to search in; k results come back when
        they hold k chunks. `search`: `hybrid` fuses the ranks of the other two; `dense` ranks by the embedder
        alone, and scores are inner products; `lexical` ranks by shared words alone, and chunks that share none
        are not found.

        Raises:
            InvalidSearch: an empty question, or k outside 1 to 1000.
            UnknownDocument: a source that the collection does not hold.
        """
        if not question.strip():
            raise InvalidSearch("the question is empty")
        if not 1 <= k <= _LARGEST_K:
            raise InvalidSearch(f"k {k}: expected 1 to {_LARGEST_K}")
        self.refresh()
        documents = None if sources is None else self._document_ids(sources)
        depth = max(50, 4 * k) if search == "hybrid" else k
        words: list[int] = []
        if search != "dense":
            with self._engine.connect() as connection:
                self._current_revision(connection)  # or it was deleted since, and has no words to search
                words = lexical_search(connection, self.collection.id, question, depth, documents)
        if search == "lexical":
            return self.hits(fuse([words]), k)
        among = None if documents is None else self._chunk_ids(documents)
        scores, ids = self._index.search(self._vector(question), depth, among)
        if search == "dense":
            return self.hits(dict(zip(ids[0].tolist(), scores[0].tolist(), strict=True)), k)
        return self.hits(fuse([ids[0].tolist(), words]), k)

    def similarity(self, question: str, documents: Sequence[str]) -> dict[int, float]:
        """The inner product with the question, by the embedder, of every chunk of documents, which are named by
        their ids; by the id of the chunk."""
        self.refresh()
        among = self._chunk_ids(documents)
        if not len(among):
            return {}
        scores, ids = self._index.search(self._vector(question), len(among), among)
        return dict(zip(ids[0].tolist(), scores[0].tolist(), strict=True))

    def refresh(self, *, flush: bool = False) -> None:
        """Make the index hold exactly what SQL says is searchable; `flush` also writes it to disk."""
        with self._refreshing:
            # Asked again after each round: what that added may have been deleted meanwhile.
            while (revision := self._revision_now()) != self._revision:
                self._reconcile()
                self._revision = revision
            if flush:
                self._index.flush()

    def sample(self, count: int, seed: int = 0) -> list[Hit]:
        """At most `count` searchable chunks, drawn by `seed`, with no score."""
        with self._engine.connect() as connection:
            statement = self._searchable(_chunk.id).order_by(_document.source_id, _chunk.start)
            ids = list(connection.execute(statement).scalars())
        chosen = random.Random(seed).sample(ids, min(count, len(ids)))
        batches = (chosen[start : start + _SAMPLE_BATCH] for start in range(0, len(chosen), _SAMPLE_BATCH))
        return [hit for batch in batches for hit in self.hits(dict.fromkeys(batch, 0.0), len(batch))]

    def hits(self, scores: dict[int, float], k: int) -> list[Hit]:
        """The `k` best of the chunks with these scores that are (still) searchable, best first."""
        ranked = sorted(scores, key=lambda chunk_id: (-scores[chunk_id], chunk_id))[:k]
        with self._engine.connect() as connection:
            rows = connection.execute(self._searchable(*_HIT).where(_chunk.id.in_(ranked)))
            hits = {row.chunk_id: Hit(**row._mapping, score=scores[row.chunk_id]) for row in rows}
        return [hits[chunk_id] for chunk_id in ranked if chunk_id in hits]

    def chunks(self, document_id: str) -> list[Hit]:
        """Every chunk of a searchable document in the order of the text, with no score."""
        ordered = self._searchable(*_HIT).where(_document.id == document_id).order_by(_chunk.position)
        with self._engine.connect() as connection:
            return [Hit(**row._mapping, score=0.0) for row in connection.execute(ordered)]

    def spans(self, document_id: str) -> list[tuple[int, int, int]]:
        """Id, start and end of each chunk of a searchable document, in the order of the text."""
        statement = self._searchable(_chunk.id, _chunk.start, _chunk.end)
        ordered = statement.where(_document.id == document_id).order_by(_chunk.position)
        with self._engine.connect() as connection:
            return [(row.id, row.start, row.end) for row in connection.execute(ordered)]

    def _vector(self, question: str) -> np.ndarray:
        """`[1, dimension]`, of unit length."""
        vector = np.asarray([self._embedder.embed_query(question)], dtype=np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)

    def _revision_now(self) -> int:
        with self._engine.connect() as connection:
            return self._current_revision(connection)

    def _current_revision(self, connection: Connection) -> int:
        revision: int | None = connection.execute(
            select(schema.collection.c.revision).where(schema.collection.c.id == self.collection.id)
        ).scalar_one_or_none()
        if revision is None:
            raise UnknownCollection(f"collection {self.collection.name!r} was deleted")
        return revision

    def _reconcile(self) -> None:
        # In this order: what another process publishes and adds in between is taken for missing, never for gone.
        held = set(self._index.ids().tolist())
        with self._engine.connect() as connection:
            truth = set(connection.execute(self._searchable(_chunk.id)).scalars())
        gone = np.fromiter(held - truth, dtype=np.int64)
        if len(gone):
            self._index.remove(gone)
        missing = sorted(truth - held)
        for begin in range(0, len(missing), _REFRESH_BATCH):
            batch = missing[begin : begin + _REFRESH_BATCH]
            statement = select(_chunk.id, _chunk.embedding).where(_chunk.id.in_(batch))
            with self._engine.connect() as connection:
                rows = connection.execute(statement).all()
            if rows:
                ids = np.asarray([row.id for row in rows], dtype=np.int64)
                self._index.add(ids, from_bytes([row.embedding for row in rows]))

    def _searchable(self, *columns: Any) -> Any:
        return (
            select(*columns)
            .join_from(schema.chunk, schema.document, _chunk.document_id == _document.id)
            .where(_document.collection_id == self.collection.id, _document.ready)
        )

    def _chunk_ids(self, documents: Sequence[str]) -> np.ndarray:
        with self._engine.connect() as connection:
            found = connection.execute(
                select(_chunk.id).where(_chunk.document_id.in_(documents)).order_by(_chunk.id)
            ).scalars()
            return np.asarray(found.all(), dtype=np.int64)

    def _document_ids(self, sources: Sequence[str]) -> list[str]:
        return [get_document(self._engine, self.collection, source).id for source in dict.fromkeys(sources)]

    # The langchain-core interface: a document there is a source here, with its metadata as attributes.

    @property
    def embeddings(self) -> Embeddings | None:
        """The embedder, where it is a langchain-core one."""
        return self._embedder if isinstance(self._embedder, Embeddings) else None

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Ingest each text as a document of its own; a text without an id gets its content's hash."""
        if kwargs:
            raise TypeError(f"unknown options: {', '.join(sorted(kwargs))}")
        all_texts = list(texts)
        attributes = metadatas if metadatas is not None else [{} for _ in all_texts]
        given = ids if ids is not None else [None] * len(all_texts)
        added = []
        for text, facts, name in zip(all_texts, attributes, given, strict=True):
            digest = content_hash(repr((text, sorted(facts.items(), key=str))).encode())
            source_id = name or digest
            parsed = ParsedDocument(text, str(facts.get("title", "")), "text/plain", "line", (0,))
            with transaction(self._engine) as connection:
                document_id = add_pending(
                    connection,
                    self.collection.id,
                    source_id,
                    parsed,
                    digest=digest,
                    size_bytes=len(text.encode()),
                    attributes=facts,
                )
            ingest(self._engine, self._embedder, self.collection, document_id)
            added.append(source_id)
        self.refresh(flush=True)
        return added

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Remove documents by source id; unknown ids are passed over, as langchain-core asks."""
        for source_id in ids or []:
            try:
                delete_document(self._engine, get_document(self._engine, self.collection, source_id))
            except UnknownDocument:
                continue
        self.refresh(flush=True)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """The whole documents of those source ids that exist."""
        statement = select(_document.source_id, _document.text, _document.attributes).where(
            _document.collection_id == self.collection.id, _document.ready, _document.source_id.in_(ids)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(statement).all()
        return [LangChainDocument(id=row[0], page_content=row[1], metadata=row[2]) for row in rows]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[LangChainDocument]:
        """The `k` best chunks as documents; see `similarity_search_with_score`."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, sources: Sequence[str] | None = None
    ) -> list[tuple[LangChainDocument, float]]:
        """The `k` chunks nearest to the query by the embedder alone, with their inner products."""
        hits = self.retrieve(query, k, sources, search="dense")
        statement = select(_document.id, _document.attributes).where(
            _document.id.in_({hit.document_id for hit in hits})
        )
        with self._engine.connect() as connection:
            attributes = {row.id: row.attributes for row in connection.execute(statement)}
        return [
            (
                LangChainDocument(
                    id=hit.source_id, page_content=hit.text, metadata=attributes.get(hit.document_id, {})
                ),
                hit.score,
            )
            for hit in hits
        ]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> "ChunkStore":
        """Not offered: a store stands on a database and an index, which this signature cannot name."""
        raise TypeError("ChunkStore needs a database: build one and call add_texts")


def fuse(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    """Reciprocal rank fusion of id lists, best first; higher is better."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, chunk_id in enumerate(ranking, start=1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1.0 / (_FUSION_CONSTANT + rank)
    return scores
