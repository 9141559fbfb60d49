"""`POST /v1/answers`: a question in, a cited answer out, whole or as it comes.

A client that hangs up ends its answer at once: nothing is read or generated for nobody.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import anyio.to_thread
import msgspec
from litestar import Controller, Request, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Response, ServerSentEvent, ServerSentEventMessage

from refdesk.app.build import Desk
from refdesk.app.problems import problem_of
from refdesk.app.rest.messages import AnswerMessage, AnswerRequest, answer_message, passage_message
from refdesk.compressor.options import compression_options
from refdesk.reader.cancellation import Cancellation
from refdesk.reader.qa import Done, Event, Retrieved, Token


class AnswersController(Controller):
    """Asking."""

    path = "/answers"
    tags = ("answers",)

    @post(
        operation_id="CreateAnswer",
        status_code=200,
        responses={200: ResponseSpec(AnswerMessage, description="JSON, or server-sent events when asked for")},
    )
    async def create(
        self,
        data: AnswerRequest,
        request: Request[Any, Any, Any],
        desk: Desk,
        accept: Annotated[str | None, Parameter(header="accept")] = None,
    ) -> Response[AnswerMessage] | ServerSentEvent:
        """Answer a question from a collection's documents.

        With `context`, from passages that the question finds in whole documents that are remembered, or over
        these.

        With `"stream": true`, or `Accept: text/event-stream`, the answer comes as server-sent events:
        `retrieval`, `token`…, `citation`…, `usage`, `done`; or `error` with a problem.
        """
        asked, context = compression_options(data.compression), data.asked_context
        qa = await anyio.to_thread.run_sync(desk.qa, data.collection)
        adapter = await anyio.to_thread.run_sync(desk.adapter, data.adapter, data.collection)
        heads = await anyio.to_thread.run_sync(desk.heads, adapter)
        shorten = await anyio.to_thread.run_sync(desk.shortener, asked)
        options = data.options(adapter, heads, shorten)
        context.check(options, asked)
        options = await anyio.to_thread.run_sync(context.chosen, desk, data.collection, data.question, options)
        cancellation = Cancellation()
        if not data.stream and "text/event-stream" not in (accept or ""):
            async with _for_as_long_as_connected(request, cancellation):
                answer = await anyio.to_thread.run_sync(qa.answer, data.question, options, cancellation)
            return Response(answer_message(answer, desk.model_name), media_type="application/json")
        messages = _as_sent(
            qa.stream(data.question, options, cancellation), desk.model_name, request, cancellation
        )
        # The first is awaited here, so that what cannot be served is answered by its status.
        first = await anext(messages)
        return ServerSentEvent(_beginning_with(first, messages))


@asynccontextmanager
async def _for_as_long_as_connected(
    request: Request[Any, Any, Any], cancellation: Cancellation
) -> AsyncIterator[None]:
    """Cancel as soon as the client hangs up, and what is left at the end of the block."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancellation.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        cancellation.cancel()


async def _as_sent(
    events: Iterator[Event], model: str, request: Request[Any, Any, Any], cancellation: Cancellation
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """What fails before the first event is raised, what fails later is sent."""
    # Litestar looks for the end of the connection too, but waits for the next event before it closes this.
    async with _for_as_long_as_connected(request, cancellation):
        event: Event | None = await anyio.to_thread.run_sync(next, events)
        try:
            while event is not None:
                for message in _messages(event, model):
                    yield message
                event = await anyio.to_thread.run_sync(next, events, None)
        except Exception as error:
            yield _message("error", problem_of(error))


async def _beginning_with(
    first: ServerSentEventMessage, rest: AsyncGenerator[ServerSentEventMessage, None]
) -> AsyncIterator[ServerSentEventMessage]:
    async with aclosing(rest):
        yield first
        async for message in rest:
            yield message


def _messages(event: Event, model: str) -> Iterator[ServerSentEventMessage]:
    if isinstance(event, Retrieved):
        yield _message("retrieval", [passage_message(passage) for passage in event.passages])
    elif isinstance(event, Token):
        yield _message("token", {"text": event.text})
    elif isinstance(event, Done):
        answer = answer_message(event.answer, model)
        for citation in answer.citations:
            yield _message("citation", citation)
        yield _message("usage", answer.usage)
        yield _message("done", answer)


def _message(event: str, data: object) -> ServerSentEventMessage:
    return ServerSentEventMessage(event=event, data=msgspec.json.encode(data).decode())
