"""Collections: named sets of documents that one embedder made searchable."""

import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from refdesk import schema
from refdesk.database import transaction
from refdesk.retriever.errors import (
    CollectionExists,
    EmbedderMismatch,
    InvalidCollection,
    UnknownCollection,
)
from refdesk.retriever.lexical import create_words, drop_words

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

# Tokens of the embedder's window kept free for a chunk's heading (the document's title).
HEADING_TOKENS = 48
SMALLEST_CHUNK = 16


@dataclass(frozen=True)
class Collection:
    """One collection; sizes in tokens of its embedder. `adapter`: which its questions are answered with; None for
    the service's own. `embedder_fingerprint`: of the embedder's weights; None before it is first opened."""

    id: str
    name: str
    embedder: str
    dimension: int
    chunk_size: int
    chunk_overlap: int
    revision: int
    created_at: float
    adapter: str | None
    embedder_fingerprint: str | None = None


def create_collection(
    engine: Engine,
    name: str,
    *,
    embedder: str,
    dimension: int,
    max_tokens: int,
    chunk_size: int | None = None,
    chunk_overlap: int | None = None,
    adapter: str | None = None,
) -> Collection:
    """Make an empty collection that remembers who embeds it (`max_tokens`: that embedder's window).

    Raises:
        InvalidCollection: a bad name, or a chunk size or overlap that the embedder cannot serve.
        CollectionExists: the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise InvalidCollection(
            f"collection name {name!r}: expected 1 to 64 of a-z, 0-9, '.', '_', '-',"
            " starting with a letter or digit"
        )
    largest = max_tokens - HEADING_TOKENS
    size = min(200, largest) if chunk_size is None else chunk_size
    overlap = size // 5 if chunk_overlap is None else chunk_overlap
    if not SMALLEST_CHUNK <= size <= largest:
        raise InvalidCollection(f"chunk_size {size}: expected {SMALLEST_CHUNK} to {largest} tokens for {embedder}")
    if not 0 <= overlap <= size // 2:
        raise InvalidCollection(f"chunk_overlap {overlap}: expected 0 to {size // 2} (half of chunk_size {size})")
    collection = Collection(uuid.uuid4().hex, name, embedder, dimension, size, overlap, 0, time.time(), adapter)
    try:
        with transaction(engine) as connection:
            connection.execute(insert(schema.collection).values(**vars(collection)))
            create_words(connection, collection.id)
    except IntegrityError:
        raise CollectionExists(f"collection {name!r} exists already") from None
    return collection


def set_adapter(engine: Engine, collection: Collection, adapter: str | None) -> Collection:
    """Answer a collection's questions with another adapter from now on."""
    with transaction(engine) as connection:
        connection.execute(
            update(schema.collection).where(schema.collection.c.id == collection.id).values(adapter=adapter)
        )
    return get_collection(engine, collection.name)


def get_collection(engine: Engine, name: str) -> Collection:
    """Raises UnknownCollection, which names those that exist."""
    with engine.connect() as connection:
        row = connection.execute(select(schema.collection).where(schema.collection.c.name == name)).one_or_none()
        if row is None:
            known = connection.execute(select(schema.collection.c.name).order_by("name").limit(10)).scalars().all()
            raise UnknownCollection(
                f"unknown collection {name!r}; " + (f"known: {', '.join(known)}" if known else "none exists yet")
            )
    return Collection(**row._mapping)


def collection_names(engine: Engine) -> dict[str, str]:
    """The name of every collection by its id."""
    with engine.connect() as connection:
        rows = connection.execute(select(schema.collection.c.id, schema.collection.c.name))
        return {row.id: row.name for row in rows}


def list_collections(engine: Engine) -> list[tuple[Collection, dict[str, int]]]:
    """Every collection by name, each with its number of `documents` and `chunks` that are searchable."""
    document, chunk = schema.document.c, schema.chunk.c
    counts = (
        select(
            document.collection_id,
            func.count(document.id.distinct()).label("documents"),
            func.count(chunk.id).label("chunks"),
        )
        .select_from(schema.document.outerjoin(schema.chunk, chunk.document_id == document.id))
        .where(document.ready)
        .group_by(document.collection_id)
    )
    with engine.connect() as connection:
        by_id: dict[str, dict[str, int]] = {
            row.collection_id: {"documents": row.documents, "chunks": row.chunks}
            for row in connection.execute(counts)
        }
        rows = connection.execute(select(schema.collection).order_by(schema.collection.c.name))
        return [(Collection(**row._mapping), by_id.get(row.id, {"documents": 0, "chunks": 0})) for row in rows]


def delete_collection(engine: Engine, collection: Collection) -> None:
    """Remove the collection with its documents, chunks and jobs in one transaction."""
    of_collection: Any = select(schema.document.c.id).where(schema.document.c.collection_id == collection.id)
    with transaction(engine) as connection:
        connection.execute(delete(schema.chunk).where(schema.chunk.c.document_id.in_(of_collection)))
        connection.execute(delete(schema.collection).where(schema.collection.c.id == collection.id))
        drop_words(connection, collection.id)


def check_embedder(
    engine: Engine, collection: Collection, *, embedder: str, dimension: int, fingerprint: str
) -> None:
    """Note which weights embed a collection when it is first opened, and refuse any others from then on.

    Raises:
        EmbedderMismatch: vectors of different models cannot be compared.
        UnknownCollection: it was deleted.
    """
    named_so = (collection.embedder, collection.dimension) == (embedder, dimension)
    if named_so and collection.embedder_fingerprint is None:
        kept = schema.collection.c
        unknown = (kept.id == collection.id, kept.embedder_fingerprint.is_(None))
        with transaction(engine) as connection:
            connection.execute(update(schema.collection).where(*unknown).values(embedder_fingerprint=fingerprint))
        collection = get_collection(engine, collection.name)
    if not named_so or collection.embedder_fingerprint != fingerprint:
        raise EmbedderMismatch(
            f"collection {collection.name!r} was embedded by {collection.embedder}"
            f" ({collection.dimension} dimensions, fingerprint {collection.embedder_fingerprint or 'unknown'}),"
            f" not by {embedder} ({dimension}, {fingerprint});"
            " start with that embedder or ingest into another collection"
        )


def bump_revision(connection: Connection, collection_id: str) -> None:
    """Tell every derived index that what is searchable has changed."""
    connection.execute(
        update(schema.collection)
        .where(schema.collection.c.id == collection_id)
        .values(revision=schema.collection.c.revision + 1)
    )
