"""Documents in SQL: a source id names a document, the hash of its bytes names a version of it.

A version is written as pending, gets its chunks and vectors, and is then published: the old version
disappears in the same transaction. Readers see one whole version at all times.
"""

import hashlib
import time
import uuid
from bisect import bisect_right
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from refdesk import schema
from refdesk.database import transaction
from refdesk.retriever.collections import Collection, bump_revision
from refdesk.retriever.errors import UnknownDocument
from refdesk.retriever.lexical import add_words, purge_words, remove_words
from refdesk.retriever.parse import ParsedDocument

_document = schema.document.c
_SUMMARY = [column for column in schema.document.columns if column.name not in {"text", "starts"}]
_VERSION = (_document.id, _document.content_hash, _document.created_at)

Publication = Literal["done", "unchanged", "superseded"]
"""What came of publishing: it is searchable; its content was already; a version that came later was already."""


@dataclass(frozen=True)
class Document:
    """A searchable version of a source; the text is fetched apart, for it may be megabytes."""

    id: str
    collection_id: str
    source_id: str
    title: str
    media_type: str
    content_hash: str
    size_bytes: int
    num_characters: int
    unit: str
    attributes: dict[str, Any]
    created_at: float
    num_chunks: int


@dataclass(frozen=True)
class OffsetMap:
    """From a character of a document's text to the unit (page, paragraph, line) of its source."""

    unit: str
    starts: list[int]

    def locate(self, offset: int) -> int:
        """The 1-based number of the unit that holds the character at `offset`."""
        return bisect_right(self.starts, offset)

    def within(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """`(offset, number)` of each unit that begins behind `start` and before `end`, from `start` on."""
        first = bisect_right(self.starts, start)
        units = enumerate(self.starts[first:], start=first + 1)
        return tuple((begin - start, number) for number, begin in takewhile(lambda unit: unit[1] < end, units))


def content_hash(content: bytes) -> str:
    """The version of a document: sha256 of its bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_current(connection: Connection, collection_id: str, source_id: str, digest: str) -> bool:
    """Whether this very content is what is searchable now, with no other version on its way."""
    rows = connection.execute(
        select(_document.content_hash, _document.ready).where(
            _document.collection_id == collection_id, _document.source_id == source_id
        )
    ).all()
    return [(row.content_hash, row.ready) for row in rows] == [(digest, True)]


def add_pending(
    connection: Connection,
    collection_id: str,
    source_id: str,
    parsed: ParsedDocument,
    *,
    digest: str,
    size_bytes: int,
    attributes: dict[str, Any] | None = None,
) -> str:
    """Write a version that is not searchable yet; returns its document id."""
    document_id = uuid.uuid4().hex
    connection.execute(
        insert(schema.document).values(
            id=document_id,
            collection_id=collection_id,
            source_id=source_id,
            title=parsed.title,
            media_type=parsed.media_type,
            content_hash=digest,
            size_bytes=size_bytes,
            text=parsed.text,
            num_characters=len(parsed.text),
            unit=parsed.unit,
            starts=list(parsed.starts),
            attributes=attributes or {},
            ready=False,
            created_at=time.time(),
        )
    )
    return document_id


def publish(connection: Connection, document_id: str) -> Publication:
    """Make a pending version the searchable one and drop the version before it; one that is searchable stays so.

    The pending one is dropped instead when the same content, or a version that came later, is searchable already.

    Raises:
        UnknownDocument: the version was deleted meanwhile.
    """
    columns = (*_VERSION, _document.collection_id, _document.source_id, _document.ready)
    row = connection.execute(select(*columns).where(_document.id == document_id)).one_or_none()
    if row is None:
        raise UnknownDocument(f"document {document_id!r} was deleted")
    if row.ready:
        return "done"
    ready = connection.execute(
        select(*_VERSION)
        .where(_document.collection_id == row.collection_id, _document.source_id == row.source_id, _document.ready)
        .with_for_update()
    ).one_or_none()
    if ready is not None and ready.content_hash == row.content_hash:
        # It came again: what came in between may not replace it.
        came = max(ready.created_at, row.created_at)
        connection.execute(update(schema.document).where(_document.id == ready.id).values(created_at=came))
        discard(connection, document_id)
        return "unchanged"
    if ready is not None and ready.created_at > row.created_at:
        discard(connection, document_id)
        return "superseded"
    if ready is not None:
        discard(connection, ready.id)
    connection.execute(update(schema.document).where(_document.id == document_id).values(ready=True))
    add_words(connection, row.collection_id, document_id)
    bump_revision(connection, row.collection_id)
    return "done"


def discard(connection: Connection, document_id: str) -> None:
    """Remove one version and its chunks; nothing happens when it is gone already."""
    searchable_in = connection.execute(
        select(_document.collection_id).where(_document.id == document_id, _document.ready)
    ).scalar_one_or_none()
    if searchable_in is not None:
        remove_words(connection, searchable_in, document_id)
    connection.execute(delete(schema.chunk).where(schema.chunk.c.document_id == document_id))
    connection.execute(delete(schema.document).where(_document.id == document_id))


def withdraw(connection: Connection, document_id: str) -> None:
    """Remove a version that is on its way; nothing happens when it is searchable, or gone already."""
    pending = select(_document.id).where(_document.id == document_id, _document.ready.is_(False))
    if connection.execute(pending.with_for_update()).one_or_none() is not None:
        discard(connection, document_id)


def delete_document(engine: Engine, document: Document) -> None:
    """Remove every version of the document's source, those on their way included."""
    versions = select(_document.id).where(
        _document.collection_id == document.collection_id, _document.source_id == document.source_id
    )
    with transaction(engine) as connection:
        for document_id in connection.execute(versions).scalars().all():
            discard(connection, document_id)
        purge_words(connection, document.collection_id)
        connection.execute(
            delete(schema.job_item).where(
                schema.job_item.c.source_id == document.source_id,
                schema.job_item.c.job_id.in_(
                    select(schema.job.c.id).where(schema.job.c.collection_id == document.collection_id)
                ),
            )
        )
        bump_revision(connection, document.collection_id)


def get_document(engine: Engine, collection: Collection, key: str) -> Document:
    """The searchable document whose document id or source id is `key`. Raises UnknownDocument."""
    statement = _summaries(collection).where((_document.id == key) | (_document.source_id == key))
    with engine.connect() as connection:
        row = connection.execute(statement).first()
    if row is None:
        raise UnknownDocument(f"unknown document {key!r} in collection {collection.name!r}")
    return _summary(row)


def list_documents(
    engine: Engine, collection: Collection, *, limit: int, after: str | None = None
) -> list[Document]:
    """At most `limit` searchable documents in the order of their source ids, those behind `after`."""
    statement = _summaries(collection).order_by(_document.source_id).limit(limit)
    if after is not None:
        statement = statement.where(_document.source_id > after)
    with engine.connect() as connection:
        return [_summary(row) for row in connection.execute(statement)]


def document_text(engine: Engine, document_id: str) -> str:
    """The text that citations point into. Raises UnknownDocument."""
    with engine.connect() as connection:
        text = connection.execute(select(_document.text).where(_document.id == document_id)).scalar_one_or_none()
    if text is None:
        raise UnknownDocument(f"unknown document {document_id!r}")
    return str(text)


def offset_maps(engine: Engine, document_ids: set[str]) -> dict[str, OffsetMap]:
    """The offset map of each document that (still) exists."""
    statement = select(_document.id, _document.unit, _document.starts).where(_document.id.in_(document_ids))
    with engine.connect() as connection:
        return {row.id: OffsetMap(row.unit, row.starts) for row in connection.execute(statement)}


def _summaries(collection: Collection) -> Any:
    chunks = (
        select(func.count())
        .where(schema.chunk.c.document_id == _document.id)
        .correlate(schema.document)
        .scalar_subquery()
    )
    return select(*_SUMMARY, chunks.label("num_chunks")).where(
        _document.collection_id == collection.id, _document.ready
    )


def _summary(row: Row[Any]) -> Document:
    fields = dict(row._mapping)
    fields.pop("ready")
    return Document(**fields)
