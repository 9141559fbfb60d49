"""Ingestion jobs: documents on their way made searchable."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from refdesk import schema
from refdesk.app.jobs import Job, LeaseLost, set_item
from refdesk.app.worker import Cancelled, Progress, Stopping
from refdesk.database import transaction
from refdesk.retriever.collections import Collection, get_collection
from refdesk.retriever.documents import publish, withdraw
from refdesk.retriever.errors import RetrieverError, UnknownDocument
from refdesk.retriever.ingest import PassageEmbedder, prepare
from refdesk.retriever.store import ChunkStore

log = structlog.get_logger()

# Versions without a job are evaluation's, or a library user's, who may be at work on them now.
_ORPHAN_S = 24 * 3600.0


@dataclass(frozen=True)
class Ingestion:
    """The work of ingestion jobs. `sweep` removes what is kept beside of versions that were replaced."""

    engine: Engine
    embedder: Callable[[], PassageEmbedder]
    open_store: Callable[[Collection], ChunkStore]
    sweep: Callable[[], None]

    kind = "ingest"
    told = (RetrieverError,)

    def heal(self) -> None:
        """Drop versions on their way that nobody is going to finish."""
        waited_for = (
            select(schema.job_item.c.document_id)
            .join_from(schema.job_item, schema.job)
            .where(schema.job.c.state.in_(("queued", "running")), schema.job_item.c.document_id.is_not(None))
        )
        orphans = select(schema.document.c.id).where(
            schema.document.c.ready.is_(False),
            schema.document.c.id.not_in(waited_for),
            schema.document.c.created_at < time.time() - _ORPHAN_S,
        )
        with transaction(self.engine) as connection:
            for document_id in connection.execute(orphans).scalars().all():
                withdraw(connection, document_id)

    def do(self, job: Job, progress: Progress) -> None:
        """See Work. A document that fails stops no other."""
        if job.collection is None:
            raise ValueError(f"ingestion job {job.id} without a collection")
        collection = get_collection(self.engine, job.collection)
        store = self.open_store(collection)  # vectors of another model would spoil the collection
        todo = [(item, item.document_id) for item in job.items if item.document_id is not None]
        done = 0
        try:
            for item, document_id in todo:
                size = self._size(document_id)
                if item.state == "queued":
                    base = done

                    def of_document(stage: str, share: float, base: int = base, size: int = size) -> None:
                        progress(stage, base + int(share * size))

                    self._ingest(collection, job.id, item.source_id, document_id, of_document)
                done += size
        except Cancelled:
            store.refresh(flush=True)  # what is done stays, and is searchable
            self.sweep()
            raise
        if todo:
            progress("index", done)
            store.refresh(flush=True)
            self.sweep()

    def _size(self, document_id: str) -> int:
        with self.engine.connect() as connection:
            size = connection.execute(
                select(schema.document.c.num_characters).where(schema.document.c.id == document_id)
            ).scalar_one_or_none()
        return size or 0

    def _ingest(
        self,
        collection: Collection,
        job_id: str,
        source_id: str,
        document_id: str,
        progress: Callable[[str, float], None],
    ) -> None:
        error: str | None = None
        try:
            prepare(self.engine, self.embedder(), collection, document_id, progress)
            # Published and noted at once: a document that is searchable is never taken for one on its way.
            with transaction(self.engine) as connection:
                set_item(connection, job_id, source_id, publish(connection, document_id))
            return
        except UnknownDocument:
            state = "cancelled"  # deleted while it waited
        except RetrieverError as failure:
            state, error = "failed", str(failure)
        except (LeaseLost, Cancelled, Stopping, SQLAlchemyError):
            raise
        except Exception as failure:
            log.exception("document_failed", job=job_id, document=document_id)
            state, error = "failed", f"internal error: {type(failure).__name__}"
        with transaction(self.engine) as connection:
            withdraw(connection, document_id)
            set_item(connection, job_id, source_id, state, error)
