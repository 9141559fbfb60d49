"""From a pending document to a searchable one: chunk, embed, publish.

Every step commits what it did, so work that is cut short goes on where it stopped: the chunks of a
version are written in one transaction, vectors batch by batch, and publishing is one transaction.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from sqlalchemy import Engine, bindparam, func, insert, select, update

from refdesk import schema
from refdesk.database import transaction
from refdesk.retriever.chunk import chunk_text
from refdesk.retriever.collections import HEADING_TOKENS, Collection
from refdesk.retriever.documents import Publication, publish
from refdesk.retriever.errors import UnknownDocument

# Chunks embedded between two commits: some seconds of work on two cores.
EMBED_BATCH = 128

_chunk = schema.chunk.c
_document = schema.document.c


class PassageEmbedder(Protocol):
    """What ingestion and search need of an embedder; `retriever.embedder.Embedder` is the real one."""

    name: str
    fingerprint: str
    dimension: int
    max_tokens: int

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text, special tokens not counted."""
        ...

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One unit vector a text."""
        ...

    def embed_query(self, text: str) -> list[float]:
        """The unit vector of a question."""
        ...


def ingest(
    engine: Engine,
    embedder: PassageEmbedder,
    collection: Collection,
    document_id: str,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> Publication:
    """Make a pending document searchable: `prepare` it, then publish it.

    Raises:
        UnknownDocument: the document was deleted meanwhile.
    """
    prepare(engine, embedder, collection, document_id, progress)
    with transaction(engine) as connection:
        return publish(connection, document_id)


def prepare(
    engine: Engine,
    embedder: PassageEmbedder,
    collection: Collection,
    document_id: str,
    progress: Callable[[str, float], None],
) -> None:
    """Give a pending document its chunks and vectors, all that it lacks to be published.

    `progress(stage, share)` is called between commits, with the stage's name and the share of the
    document that is done; an exception that it raises stops the work there.

    Raises:
        UnknownDocument: the document was deleted meanwhile.
    """
    progress("chunk", 0.0)
    num_chunks = _write_chunks(engine, embedder, collection, document_id)
    progress("embed", 0.0)
    for num_left in _embed_chunks(engine, embedder, document_id):
        progress("embed", 1.0 - num_left / num_chunks)


def _write_chunks(engine: Engine, embedder: PassageEmbedder, collection: Collection, document_id: str) -> int:
    with engine.connect() as connection:
        row = connection.execute(
            select(_document.text, _document.title, _document.source_id).where(_document.id == document_id)
        ).one_or_none()
        if row is None:
            raise UnknownDocument(f"document {document_id!r} was deleted")
        written = connection.execute(select(func.count()).where(_chunk.document_id == document_id)).scalar_one()
    if written:
        return int(written)
    heading = _heading(row.source_id, row.title, embedder)
    spans = chunk_text(row.text, collection.chunk_size, collection.chunk_overlap, embedder.count_tokens)
    with transaction(engine) as connection:
        first = time.time_ns()
        connection.execute(
            insert(schema.chunk),
            [
                {
                    "id": first + position,
                    "document_id": document_id,
                    "position": position,
                    "start": start,
                    "end": end,
                    "heading": heading,
                    "text": row.text[start:end],
                }
                for position, (start, end) in enumerate(spans)
            ],
        )
    return len(spans)


def _heading(source_id: str, title: str, embedder: PassageEmbedder) -> str:
    """File name and title, as many whole words as the embedder has room for beside the chunk. A source id without
    a suffix is no file name: it may be any identifier, which says nothing about the text."""
    path = PurePosixPath(source_id)
    name = path.stem if title and path.suffix else ""
    words = (title if name in title else f"{name}: {title}").split()
    while words and embedder.count_tokens([" ".join(words)])[0] > HEADING_TOKENS:
        words.pop()
    return " ".join(words)


def _embed_chunks(engine: Engine, embedder: PassageEmbedder, document_id: str) -> Iterator[int]:
    """Embed what has no vector yet, batch by batch; yields how many chunks are left after each."""
    missing = (
        select(_chunk.id, _chunk.heading, _chunk.text)
        .where(_chunk.document_id == document_id, _chunk.embedding.is_(None))
        .order_by(_chunk.id)
    )
    with engine.connect() as connection:
        rows = connection.execute(missing).all()
    store = update(schema.chunk).where(_chunk.id == bindparam("chunk")).values(embedding=bindparam("vector"))
    for begin in range(0, len(rows), EMBED_BATCH):
        batch = rows[begin : begin + EMBED_BATCH]
        vectors = embedder.embed_documents([headed(row.heading, row.text) for row in batch])
        with transaction(engine) as connection:
            connection.execute(
                store,
                [
                    {"chunk": row.id, "vector": to_bytes(vector)}
                    for row, vector in zip(batch, vectors, strict=True)
                ],
            )
        yield len(rows) - begin - len(batch)


def headed(heading: str, text: str) -> str:
    """A chunk as it is embedded."""
    return f"{heading}\n{text}".lstrip()


def to_bytes(vector: list[float]) -> bytes:
    """A vector as SQL keeps it: float16, scaled to unit length."""
    array = np.asarray(vector, dtype=np.float32)
    norm = float(np.linalg.norm(array))
    return (array / norm if norm > 0 else array).astype(np.float16).tobytes()


def from_bytes(blobs: list[bytes]) -> np.ndarray:
    """The vectors of `to_bytes`, float32 of shape (n, dimension)."""
    return np.stack([np.frombuffer(blob, dtype=np.float16) for blob in blobs]).astype(np.float32)
