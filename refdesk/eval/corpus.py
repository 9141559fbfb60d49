"""The documents of a task in a collection of their own, through the same ingestion as a user's.

A collection may be named by hand in the service, searched and deleted there; a run that needs it makes it again.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence

from refdesk.database import transaction
from refdesk.eval.desk import Desk
from refdesk.eval.errors import MissingData
from refdesk.eval.example import Document, DocumentFile
from refdesk.retriever.collections import Collection, get_collection
from refdesk.retriever.documents import add_pending, content_hash, document_text, get_document, is_current
from refdesk.retriever.ingest import ingest
from refdesk.retriever.parse import ParsedDocument, parse
from refdesk.retriever.parse.document import storable

Progress = Callable[[str], None]
"""Called often with what is being done; it raises what stops the work."""


def collection_name(task: str, shared: Sequence[Document | DocumentFile]) -> str:
    """Where a task's documents are kept. A corpus that questions share is named by what is in it, because each of
    its documents may be found for each question."""
    if not shared:
        return f"eval.{task}"
    digest = hashlib.sha256()
    for document in shared:
        digest.update(f"{document.id}\0".encode() + _content(document) + b"\0")
    return f"eval.{task}.{digest.hexdigest()[:8]}"


def dataset_collection(dataset_id: str) -> str:
    """Where the documents of an uploaded data set are kept."""
    return collection_name(dataset_task(dataset_id), ())


def dataset_task(dataset_id: str) -> str:
    """What an uploaded data set is called where a benchmark's name is expected."""
    return f"dataset.{dataset_id[:8]}"


def is_of_dataset(collection: str, dataset_id: str) -> bool:
    """Whether a collection of this name was made of an uploaded data set: to answer from, or to train on."""
    made = rf"eval\.(craft\.)?{re.escape(dataset_task(dataset_id))}(\.[0-9a-f]{{8}})?"
    return re.fullmatch(made, collection) is not None


def ensure_ingested(
    desk: Desk, name: str, documents: Iterable[Document | DocumentFile], progress: Progress
) -> Collection:
    """The collection of this name, holding these documents; those it holds already cost nothing."""
    collection = desk.ensure_collection(name)
    store = desk.open_store(collection)
    changed = False
    for document in documents:
        progress("index")
        content = _content(document)
        digest = content_hash(content)
        with desk.engine.connect() as connection:
            if is_current(connection, collection.id, document.id, digest):
                continue
        if isinstance(document, DocumentFile):
            parsed = parse(content, document.id)
        else:
            parsed = ParsedDocument(storable(document.text), storable(document.title), "text/plain", "line", (0,))
        with transaction(desk.engine) as connection:
            version = add_pending(
                connection, collection.id, document.id, parsed, digest=digest, size_bytes=len(content)
            )
        ingest(desk.engine, desk.embedder, collection, version, lambda _stage, _share: progress("index"))
        changed = True
    if changed:
        store.refresh(flush=True)
    return collection


def texts(desk: Desk, name: str, shared: Sequence[Document | DocumentFile]) -> dict[str, Document]:
    """The documents by id; files as the text that was read out of them."""
    if all(isinstance(document, Document) for document in shared):
        return {document.id: document for document in shared if isinstance(document, Document)}
    collection = get_collection(desk.engine, name)
    found = {}
    for document in shared:
        stored = get_document(desk.engine, collection, document.id)
        found[document.id] = Document(document.id, stored.title, document_text(desk.engine, stored.id))
    return found


def _content(document: Document | DocumentFile) -> bytes:
    if isinstance(document, Document):
        return f"{document.title}\0{document.text}".encode()
    try:
        return document.path.read_bytes()
    except OSError as error:
        raise MissingData(f"{document.path} cannot be read: {error}") from error
