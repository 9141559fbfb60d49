"""`/v1/jobs`: what is being done, how far it is, and stopping it."""

import asyncio
from collections.abc import AsyncIterator

import anyio.to_thread
import msgspec
from litestar import Controller, Response, delete, get
from litestar.response import ServerSentEvent, ServerSentEventMessage

from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.jobs import Job, cancel_job, get_job
from refdesk.app.rest.messages import JobMessage, job_message

_POLL_S = 0.25


class JobsController(Controller):
    """Jobs."""

    path = "/jobs/{job_id:str}"
    tags = ("jobs",)

    @get(operation_id="GetJob", sync_to_thread=True)
    def retrieve(self, job_id: str, desk: Desk) -> JobMessage:
        """A job's state, progress and documents."""
        return job_message(get_job(desk.engine, job_id))

    @delete(operation_id="CancelJob", status_code=202, guards=[require("admin")], sync_to_thread=True)
    def cancel(self, job_id: str, desk: Desk) -> Response[JobMessage]:
        """Ask a job to stop. Documents that are done stay, the others leave nothing behind."""
        return Response(job_message(cancel_job(desk.engine, job_id)), status_code=202)

    @get("/events", operation_id="GetJobEvents")
    async def events(self, job_id: str, desk: Desk) -> ServerSentEvent:
        """The job as server-sent events: `progress` at every change, then `done`."""
        job = await anyio.to_thread.run_sync(get_job, desk.engine, job_id)
        return ServerSentEvent(_changes(desk, job))


async def _changes(desk: Desk, job: Job) -> AsyncIterator[ServerSentEventMessage]:
    told: Job | None = None
    while True:
        if job != told:
            data = msgspec.json.encode(job_message(job)).decode()
            yield ServerSentEventMessage(event="done" if job.finished else "progress", data=data)
        if job.finished:
            return
        told = job
        await asyncio.sleep(_POLL_S)
        job = await anyio.to_thread.run_sync(get_job, desk.engine, job.id)
