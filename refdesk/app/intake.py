"""The intake: files in, one ingestion job out. A bad file is told apart here, before anything is stored."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Engine

from refdesk.app.jobs import JobItem, add_job
from refdesk.database import transaction
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import add_pending, content_hash, is_current
from refdesk.retriever.errors import InvalidUpload, RetrieverError
from refdesk.retriever.parse import ParsedDocument, parse
from refdesk.retriever.parse.document import storable

MAX_FILES = 1000
MAX_SOURCE_ID = 500


@dataclass(frozen=True)
class Upload:
    """One file as it came: `source_id` is its name in the collection, its suffix tells the format."""

    source_id: str
    content: bytes


@dataclass(frozen=True)
class Intake:
    """What became of the files: the job that works on those taken in, and why others were refused."""

    job_id: str
    rejected: list[tuple[str, RetrieverError]]


def take_in(engine: Engine, collection: Collection, uploads: Iterable[Upload], *, max_bytes: int) -> Intake:
    """Parse the files and queue one job for those that can be read, all in one transaction.

    Content that is searchable already is noted as unchanged and costs nothing more.

    Raises:
        InvalidUpload: no file, too many, or two of one name.
        RetrieverError: every file was refused; `rejected` on the error tells each one's reason.
    """
    rejected: list[tuple[str, RetrieverError]] = []
    parsed: dict[str, tuple[str, int, ParsedDocument | None]] = {}
    taken: set[str] = set()
    for upload in uploads:
        _check_apart(upload.source_id, taken)
        taken.add(upload.source_id)
        digest = content_hash(upload.content)
        try:
            _check_name(upload.source_id)
            with engine.connect() as connection:
                known = is_current(connection, collection.id, upload.source_id, digest)
            document = None if known else parse(upload.content, upload.source_id, max_bytes=max_bytes)
        except RetrieverError as error:
            rejected.append((storable(upload.source_id)[:MAX_SOURCE_ID], error))
            continue
        parsed[upload.source_id] = (digest, len(upload.content), document)
    if not parsed:
        raise _all_refused(rejected)
    with transaction(engine) as connection:
        items = []
        for source_id, (digest, size, document) in parsed.items():
            document_id = None
            if document is not None:
                document_id = add_pending(
                    connection, collection.id, source_id, document, digest=digest, size_bytes=size
                )
            items.append(JobItem(source_id, document_id, "queued" if document else "unchanged", None))
        items += [JobItem(source_id, None, "rejected", str(error)) for source_id, error in rejected]
        total = sum(len(document.text) for _, _, document in parsed.values() if document is not None)
        job_id = add_job(connection, "ingest", collection.id, items, total)
    return Intake(job_id, rejected)


def _check_name(source_id: str) -> None:
    if not source_id.strip() or len(source_id) > MAX_SOURCE_ID or storable(source_id) != source_id:
        raise InvalidUpload(f"source id {source_id[:80]!r}: expected 1 to {MAX_SOURCE_ID} characters of Unicode")


def _check_apart(source_id: str, taken: set[str]) -> None:
    if source_id in taken:
        raise InvalidUpload(f"source id {source_id!r} stands twice in one request")
    if len(taken) >= MAX_FILES:
        raise InvalidUpload(f"more than {MAX_FILES} files in one request")


def _all_refused(rejected: list[tuple[str, RetrieverError]]) -> RetrieverError:
    if not rejected:
        return InvalidUpload("no file was given")
    if len(rejected) == 1:
        return rejected[0][1]
    refused = InvalidUpload(f"none of the {len(rejected)} files could be read")
    refused.rejected = rejected
    return refused
