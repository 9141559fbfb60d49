"""`POST /v1/answers`: a question in, a cited answer out, whole or as it comes."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import anyio.to_thread
import msgspec
from litestar import Controller, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Response, ServerSentEvent, ServerSentEventMessage

from refdesk.app.build import Desk
from refdesk.app.problems import problem_of
from refdesk.app.rest.messages import AnswerMessage, AnswerRequest, answer_message, passage_message
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
        desk: Desk,
        accept: Annotated[str | None, Parameter(header="accept")] = None,
    ) -> Response[AnswerMessage] | ServerSentEvent:
        """Answer a question from a collection's documents.

        With `"stream": true`, or `Accept: text/event-stream`, the answer comes as server-sent events:
        `retrieval`, `token`…, `citation`…, `usage`, `done`; or `error` with a problem.
        """
        options = data.options()
        qa = await anyio.to_thread.run_sync(desk.qa, data.collection)
        if not data.stream and "text/event-stream" not in (accept or ""):
            answer = await anyio.to_thread.run_sync(qa.answer, data.question, options)
            return Response(answer_message(answer, desk.model_name), media_type="application/json")
        events = qa.stream(data.question, options)
        # The first event is awaited here, so that a bad request is answered by its status.
        first = await anyio.to_thread.run_sync(next, events)
        return ServerSentEvent(_as_sent(events, first, desk.model_name))


async def _as_sent(events: Iterator[Event], first: Event, model: str) -> AsyncIterator[ServerSentEventMessage]:
    event: Event | None = first
    try:
        while event is not None:
            for message in _messages(event, model):
                yield message
            event = await anyio.to_thread.run_sync(next, events, None)
    except Exception as error:
        yield _message("error", problem_of(error))
    finally:
        events.close()  # type: ignore[attr-defined]  # a generator: closing it cancels the generation


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
