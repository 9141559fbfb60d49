"""`/v1/collections/{name}/memories`: documents, or their passages, read once for the answers to come."""

import anyio.to_thread
from litestar import Controller, Response, delete, get, post

from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.document_reading import memory_readers
from refdesk.app.jobs import get_job
from refdesk.app.rest.memory_messages import (
    DocumentMemoriesMessage,
    MemoryRequest,
    document_memory_message,
)
from refdesk.app.rest.messages import JobMessage, job_message
from refdesk.retriever.collections import get_collection
from refdesk.retriever.documents import get_document


class MemoriesController(Controller):
    """Memories of the documents of one collection. A document is named by its id, or by its source id if that has
    no slash; in a request's `documents` by either."""

    path = "/collections/{name:str}/memories"
    tags = ("memories",)

    @post(operation_id="RememberDocuments", status_code=202, guards=[require("admin")])
    async def remember(self, name: str, data: MemoryRequest, desk: Desk) -> Response[JobMessage]:
        """Read documents, or `of` them the passages, into memories: those that are named, or all. The job in
        `Location` does it."""
        collection = await anyio.to_thread.run_sync(get_collection, desk.engine, name)
        job_id = await anyio.to_thread.run_sync(desk.remember, collection, data.documents or (), data.settings)
        job = await anyio.to_thread.run_sync(get_job, desk.engine, job_id)
        return Response(job_message(job), status_code=202, headers={"Location": f"/v1/jobs/{job.id}"})

    @get(operation_id="ListMemories", sync_to_thread=True)
    def list(self, name: str, desk: Desk) -> DocumentMemoriesMessage:
        """Every memory by its document's source id."""
        collection = get_collection(desk.engine, name)
        readers = memory_readers(desk, desk.adapter(None, name))
        found = desk.memories.list(collection)
        return DocumentMemoriesMessage([document_memory_message(entry, readers) for entry in found])

    @delete("/{document:str}", operation_id="DeleteMemories", guards=[require("admin")], sync_to_thread=True)
    def remove(self, name: str, document: str, desk: Desk) -> None:
        """Remove the memories of a document, whichever model and adapter made them; the document stays."""
        desk.memories.drop(get_document(desk.engine, get_collection(desk.engine, name), document))
