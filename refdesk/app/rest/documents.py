"""`/v1/collections/{name}/documents`: documents in, looked at, and out again."""

import base64
import binascii
from typing import Annotated, Any

import anyio.to_thread
from litestar import Controller, MediaType, Request, Response, delete, get, post
from litestar.datastructures import UploadFile
from litestar.params import Parameter

from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.intake import Upload
from refdesk.app.jobs import get_job
from refdesk.app.problems import problem_of
from refdesk.app.rest.messages import (
    DocumentMessage,
    DocumentsMessage,
    IngestionMessage,
    RejectedMessage,
    document_message,
    job_message,
)
from refdesk.retriever.collections import get_collection
from refdesk.retriever.documents import document_text, get_document, list_documents
from refdesk.retriever.errors import InvalidUpload


class DocumentsController(Controller):
    """Documents of one collection. A document is named by its id, or by its source id if that has no slash."""

    path = "/collections/{name:str}/documents"
    tags = ("documents",)

    @post(operation_id="IngestDocuments", status_code=202, guards=[require("admin")])
    async def ingest(self, name: str, request: Request[Any, Any, Any], desk: Desk) -> Response[IngestionMessage]:
        """Take in one or many files: multipart form data, each file in a field named `file`.

        A file's name is its source id. Content that is known already costs nothing; new content under a
        known source id replaces the old. Files that cannot be read are told in `rejected`, the others
        are worked on by the job in `Location`.
        """
        collection = await anyio.to_thread.run_sync(get_collection, desk.engine, name)
        uploads = []
        form = await request.form()
        for field, value in form.multi_items():
            if field != "file" or not isinstance(value, UploadFile):
                raise InvalidUpload(f"form field {field!r}: expected files in fields named 'file'")
            uploads.append(Upload(value.filename or "", await value.read()))
        intake = await anyio.to_thread.run_sync(desk.take_in, collection, uploads)
        job = await anyio.to_thread.run_sync(get_job, desk.engine, intake.job_id)
        rejected = [
            RejectedMessage(source_id, problem.type, problem.detail)
            for source_id, problem in ((source_id, problem_of(error)) for source_id, error in intake.rejected)
        ]
        return Response(
            IngestionMessage(job_message(job), rejected),
            status_code=202,
            headers={"Location": f"/v1/jobs/{job.id}"},
        )

    @get(operation_id="ListDocuments", sync_to_thread=True)
    def list(
        self,
        name: str,
        desk: Desk,
        limit: Annotated[int, Parameter(ge=1, le=1000)] = 100,
        cursor: str | None = None,
    ) -> DocumentsMessage:
        """Searchable documents by source id, a page at a time."""
        collection = get_collection(desk.engine, name)
        after = None if cursor is None else _decode(cursor)
        found = list_documents(desk.engine, collection, limit=limit + 1, after=after)
        more = len(found) > limit
        return DocumentsMessage(
            [document_message(document) for document in found[:limit]],
            _encode(found[limit - 1].source_id) if more else None,
        )

    @get("/{document:str}", operation_id="GetDocument", sync_to_thread=True)
    def retrieve(self, name: str, document: str, desk: Desk) -> DocumentMessage:
        """One document, without its text."""
        return document_message(get_document(desk.engine, get_collection(desk.engine, name), document))

    @get(
        "/{document:str}/text",
        operation_id="GetDocumentText",
        media_type=MediaType.TEXT,
        sync_to_thread=True,
    )
    def text(
        self,
        name: str,
        document: str,
        desk: Desk,
        start: Annotated[int, Parameter(ge=0)] = 0,
        end: Annotated[int | None, Parameter(ge=0)] = None,
    ) -> str:
        """The text that citations point into, whole or the characters from `start` to `end`."""
        found = get_document(desk.engine, get_collection(desk.engine, name), document)
        return document_text(desk.engine, found.id)[start:end]

    @delete("/{document:str}", operation_id="DeleteDocument", guards=[require("admin")], sync_to_thread=True)
    def remove(self, name: str, document: str, desk: Desk) -> None:
        """Remove a document: its text, its chunks, its vectors, its memories, and versions on their way."""
        desk.delete_document(get_collection(desk.engine, name), document)


def _encode(source_id: str) -> str:
    return base64.urlsafe_b64encode(source_id.encode()).decode()


def _decode(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, UnicodeError):
        raise InvalidUpload(f"cursor {cursor[:80]!r}: expected a next_cursor of an earlier page") from None
