"""Versions of documents, on their way or searchable."""

from sqlalchemy import Engine

from refdesk.database import transaction
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import add_pending, content_hash
from refdesk.retriever.ingest import ingest
from refdesk.retriever.parse import parse
from tests.conftest import WordEmbedder

SENTENCES = [f"Sentence number {i} speaks of topic{i} at some length, as it must." for i in range(40)]
LONG = " ".join(SENTENCES)


def pend(engine: Engine, collection: Collection, source_id: str, content: str) -> str:
    """Add a version that is on its way; its id."""
    raw = content.encode()
    with transaction(engine) as connection:
        return add_pending(
            connection,
            collection.id,
            source_id,
            parse(raw, source_id),
            digest=content_hash(raw),
            size_bytes=len(raw),
        )


def put(engine: Engine, collection: Collection, embedder: WordEmbedder, source_id: str, content: str) -> str:
    """Add a version that is searchable; its id."""
    document_id = pend(engine, collection, source_id, content)
    ingest(engine, embedder, collection, document_id)
    return document_id
