"""Memory jobs: documents read once, whole or passage by passage, into memories that answers use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import structlog
from sqlalchemy import insert, select
from sqlalchemy.exc import SQLAlchemyError

from refdesk import schema
from refdesk.app.document_reading import Apart, Desk, Way, Whole
from refdesk.app.jobs import Job, JobItem, LeaseLost, add_job, set_item, set_total
from refdesk.app.memories import KIND, Of
from refdesk.app.worker import Cancelled, Progress, Stopping
from refdesk.database import transaction
from refdesk.memory.errors import InvalidMemory
from refdesk.reader.errors import EngineClosed, Interrupted, InvalidOption, ReaderError
from refdesk.retriever.collections import Collection, get_collection
from refdesk.retriever.documents import Document, get_document, list_documents
from refdesk.retriever.errors import InvalidUpload, RetrieverError, UnknownDocument

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.reader.remember import RememberOptions

log = structlog.get_logger()

_PAGE = 1000


@dataclass(frozen=True)
class MemorySettings:
    """`adapter`: the name of the one to read with; None for the collection's, else the service's. `options`: of
    `reader.remember.RememberOptions`, by name, those that are not to have their defaults. `of`: what is
    remembered, each document as a whole or its passages, for which there are no options."""

    adapter: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    of: Of = "document"

    def remember_options(self) -> "RememberOptions":
        """Raises InvalidOption."""
        from refdesk.reader.remember import RememberOptions

        layers = self.options.get("layers")
        return RememberOptions(**self.options | {"layers": None if layers is None else tuple(layers)})


def start_remembering(desk: Desk, collection: Collection, sources: Sequence[str], wanted: MemorySettings) -> str:
    """Queue the reading of documents, by id or source id (none: all of the collection); returns the job's id.

    Raises:
        UnknownDocument: the collection does not hold one of them.
        InvalidUpload: it holds none at all.
        AdapterNotFound, AdapterMismatch: see `Desk.adapter`.
        InvalidOption, InvalidMemory: an option that the model cannot read with, or one without effect.
        EmbedderMismatch: passages of a collection that another embedder made.
    """
    _way(desk, collection, wanted).check()
    if sources:
        found = [get_document(desk.engine, collection, source) for source in sources]
    else:
        found = _all_documents(desk, collection)
    if not found:
        raise InvalidUpload(f"collection {collection.name!r} is empty; take documents in first")
    names = dict.fromkeys(document.source_id for document in found)
    with transaction(desk.engine) as connection:
        items = [JobItem(name, None, "queued", None) for name in names]
        job_id = add_job(connection, KIND, collection.id, items, 0)
        values = {"job_id": job_id, "settings": msgspec.to_builtins(wanted)}
        connection.execute(insert(schema.memory_settings).values(**values))
    return job_id


@dataclass(frozen=True)
class Remembering:
    """The work of jobs that read documents into memories."""

    desk: Desk

    kind = KIND
    told = (InvalidMemory, ReaderError, RetrieverError)

    def heal(self) -> None:
        """Drop memories of what is not searchable any more, and what was begun and is not gone on with."""
        self.desk.memories.sweep()

    def do(self, job: Job, progress: Progress) -> None:
        """See Work. A document that fails stops no other; one that is gone by its turn is passed over, and one
        that was replaced is read as it is then."""
        if job.collection is None:
            raise ValueError(f"memory job {job.id} without a collection")
        progress("load", job.done)
        collection = get_collection(self.desk.engine, job.collection)
        way = _way(self.desk, collection, self._settings(job.id))
        sizes = []
        for item in job.items:
            progress("count", job.done)
            sizes.append(self._size(collection, item.source_id, way))
        set_total(self.desk.engine, job.id, sum(sizes))
        done = 0
        for item, size in zip(job.items, sizes, strict=True):
            progress("read", done)
            if item.state == "queued":

                def of_document(read: int, before: int = done) -> None:
                    progress("read", before + read)

                self._item(job.id, collection, item.source_id, way, of_document)
            done += size

    def _settings(self, job_id: str) -> MemorySettings:
        row = schema.memory_settings.c
        with self.desk.engine.connect() as connection:
            found = connection.execute(select(row.settings).where(row.job_id == job_id)).scalar_one()
        return msgspec.convert(found, MemorySettings)

    def _size(self, collection: Collection, source_id: str, way: Way) -> int:
        try:
            return way.of(get_document(self.desk.engine, collection, source_id)).tokens
        except UnknownDocument:
            return 0

    def _item(
        self,
        job_id: str,
        collection: Collection,
        source_id: str,
        way: Way,
        progress: Callable[[int], None],
    ) -> None:
        """One document, and what became of it; `progress` gets its tokens that are done."""
        error: str | None = None
        try:
            document = get_document(self.desk.engine, collection, source_id)
            state = self._remember(job_id, document, way, progress)
        except UnknownDocument:
            state = "cancelled"  # deleted, or replaced while it was read
        except (EngineClosed, Interrupted) as closed:
            raise Stopping from closed
        except self.told as failure:
            state, error = "failed", str(failure)
        except (LeaseLost, Cancelled, Stopping, SQLAlchemyError):
            raise
        except Exception as failure:
            progress(0)  # whoever has lost the lease says nothing about what another has moved
            log.exception("document_failed", job=job_id, document=source_id)
            state, error = "failed", f"internal error: {type(failure).__name__}"
        with transaction(self.desk.engine) as connection:
            set_item(connection, job_id, source_id, state, error)

    def _remember(self, job_id: str, document: Document, way: Way, progress: Callable[[int], None]) -> str:
        """The state of its item. What was begun stays only for who goes on with it. Raises UnknownDocument."""
        memories = self.desk.memories
        reading = way.of(document)
        if reading.is_made():
            return "unchanged"
        part = memories.begin(document, reading.reader, job_id, reading.card)
        try:
            reading.read(part, progress)
            memories.place(part)
        except (LeaseLost, Stopping, EngineClosed, Interrupted, SQLAlchemyError):
            raise
        except Exception:
            memories.discard(part)
            self._check_there(document)
            raise
        self._check_there(document)
        return "done"

    def _check_there(self, document: Document) -> None:
        """Whoever removed a document may have swept before the last of its memory was written. Raises
        UnknownDocument."""
        with self.desk.engine.connect() as connection:
            found = connection.execute(select(schema.document.c.id).where(schema.document.c.id == document.id))
            if found.one_or_none() is not None:
                return
        self.desk.memories.sweep()
        raise UnknownDocument(f"document {document.source_id!r} is gone")


def _way(desk: Desk, collection: Collection, wanted: MemorySettings) -> Way:
    """Raises what `start_remembering` does, but for documents."""
    from refdesk.reader.thinning import thinning_of

    adapter = desk.adapter(wanted.adapter, collection.name)
    if wanted.of == "passages":
        for option, value in wanted.options.items():
            raise InvalidOption(option, value, "nothing, for passages are read as answers read them")
        return Apart(desk, collection, adapter)
    if wanted.of != "document":
        raise InvalidOption("of", wanted.of, f"one of {', '.join(get_args(Of))}")
    options = wanted.remember_options()
    heads = desk.heads(adapter) if options.rate > 1 and options.keep != "infinipot" else None
    thinning = thinning_of(options.keep, options.rate, desk.reader[0], adapter, heads)
    return Whole(desk, adapter, heads, replace(options, keep=thinning.keep), thinning)


def _all_documents(desk: Desk, collection: Collection) -> list[Document]:
    found: list[Document] = []
    while page := list_documents(
        desk.engine, collection, limit=_PAGE, after=found[-1].source_id if found else None
    ):
        found += page
    return found
