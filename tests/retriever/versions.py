"""Versions of documents on their way."""

from sqlalchemy import Engine

from refdesk.database import transaction
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import add_pending, content_hash
from refdesk.retriever.parse import parse


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
