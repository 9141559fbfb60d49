"""The worker: a thread that does the jobs, one after the other, and heals what was left half-done."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from refdesk import schema
from refdesk.app.jobs import (
    LEASE_S,
    Job,
    LeaseLost,
    claim,
    finish,
    get_job,
    release,
    renew,
    set_item,
    worker_name,
)
from refdesk.database import transaction
from refdesk.retriever.collections import Collection, get_collection
from refdesk.retriever.documents import discard
from refdesk.retriever.errors import EmbedderMismatch, RetrieverError, UnknownDocument
from refdesk.retriever.ingest import PassageEmbedder, ingest
from refdesk.retriever.store import ChunkStore

log = structlog.get_logger()

_POLL_S = 1.0


class Cancelled(Exception):
    """Somebody asked for the job to stop."""


class Stopping(Exception):
    """The process goes down: the job is left as it is, to be gone on with."""


@dataclass(frozen=True)
class Ingestion:
    """What the worker needs to do an ingestion job."""

    engine: Engine
    embedder: Callable[[], PassageEmbedder]
    open_store: Callable[[Collection], ChunkStore]


class Worker:
    """Runs jobs until closed; several workers, also of several processes, may share a database."""

    def __init__(self, ingestion: Ingestion) -> None:
        self._ingestion = ingestion
        self._engine = ingestion.engine
        self._name = worker_name()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier process left undone first."""
        sweep(self._engine)
        self._thread.start()

    def wake(self) -> None:
        """A job was queued: look now rather than at the next poll."""
        self._wake.set()

    def close(self) -> None:
        """Stop at the next commit; the job in hand goes on when a worker starts again."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self.run_one():
                    continue
            except Exception:
                log.exception("job_worker_failed")  # a database that is away comes back; the thread stays
            self._wake.wait(_POLL_S)
            self._wake.clear()

    def run_one(self) -> bool:
        """Do the next job, if there is one."""
        job_id = claim(self._engine, self._name)
        if job_id is None:
            return False
        beat = _Heartbeat(self._engine, job_id, self._name)
        try:
            self._work(get_job(self._engine, job_id))
        except LeaseLost:
            log.warning("job_lease_lost", job=job_id)
        except Stopping:
            release(self._engine, job_id, self._name)
        finally:
            beat.close()
        return True

    def _work(self, job: Job) -> None:
        collection = get_collection(self._engine, job.collection)
        try:
            store = self._ingestion.open_store(collection)
        except EmbedderMismatch as error:  # vectors of another model would spoil the collection
            with transaction(self._engine) as connection:
                finish(connection, job.id, error=str(error))
            return
        todo = [(item, item.document_id) for item in job.items if item.document_id is not None]
        done = 0
        for item, document_id in todo:
            size = self._size(document_id)
            if item.state == "queued":
                base = done

                def progress(stage: str, share: float, base: int = base, size: int = size) -> None:
                    self._check(job.id, stage, base + int(share * size))

                try:
                    self._ingest(collection, job.id, item.source_id, document_id, progress)
                except Cancelled:
                    break
            done += size
        if todo:
            renew(self._engine, job.id, self._name, stage="index")
            store.refresh(flush=True)
        with transaction(self._engine) as connection:
            finish(connection, job.id)

    def _check(self, job_id: str, stage: str, done: int) -> None:
        if renew(self._engine, job_id, self._name, stage=stage, done=done):
            raise Cancelled
        if self._stop.is_set():
            raise Stopping

    def _size(self, document_id: str) -> int:
        with self._engine.connect() as connection:
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
            changed = ingest(self._engine, self._ingestion.embedder(), collection, document_id, progress)
            state = "done" if changed else "unchanged"
        except UnknownDocument:
            state = "cancelled"  # deleted while it waited
        except RetrieverError as failure:
            state, error = "failed", str(failure)
        except (LeaseLost, Cancelled, Stopping, SQLAlchemyError):
            raise
        except Exception as failure:
            log.exception("document_failed", job=job_id, document=document_id)
            state, error = "failed", f"internal error: {type(failure).__name__}"
        with transaction(self._engine) as connection:
            if state == "failed":
                discard(connection, document_id)
            set_item(connection, job_id, source_id, state, error)


class _Heartbeat:
    """Holds a job's lease while a single step takes longer than the lease."""

    def __init__(self, engine: Engine, job_id: str, owner: str) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(engine, job_id, owner), daemon=True)
        self._thread.start()

    def _beat(self, engine: Engine, job_id: str, owner: str) -> None:
        while not self._over.wait(LEASE_S / 3):
            try:
                renew(engine, job_id, owner)
            except (LeaseLost, SQLAlchemyError):
                return  # the work itself finds out at its next commit

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def sweep(engine: Engine) -> None:
    """Drop versions on their way that no job is going to finish."""
    waited_for = (
        select(schema.job_item.c.document_id)
        .join_from(schema.job_item, schema.job)
        .where(schema.job.c.state.in_(("queued", "running")), schema.job_item.c.document_id.is_not(None))
    )
    orphans = select(schema.document.c.id).where(
        schema.document.c.ready.is_(False), schema.document.c.id.not_in(waited_for)
    )
    with transaction(engine) as connection:
        for document_id in connection.execute(orphans).scalars().all():
            discard(connection, document_id)
