"""`/v1/evaluations` and `/v1/datasets`: how good the answers are, on benchmarks and on questions of one's own."""

from dataclasses import dataclass
from typing import Annotated

import anyio.to_thread
from litestar import Controller, Response, delete, get, post
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body, Parameter

from refdesk.app.auth import require
from refdesk.app.build import Desk
from refdesk.app.evaluation import cancel_run
from refdesk.app.rest.evaluation_messages import (
    DatasetMessage,
    DatasetsMessage,
    EvaluationMessage,
    EvaluationRequest,
    EvaluationsMessage,
    ScoresMessage,
    dataset_message,
    evaluation_message,
    run_message,
    score_message,
)
from refdesk.eval.errors import InvalidRun
from refdesk.eval.run import Run, Score
from refdesk.eval.runs import add_dataset, get_dataset_entry, get_run, list_datasets, list_runs, list_scores


@dataclass
class DatasetUpload:
    """The form of an upload."""

    file: UploadFile


class DatasetsController(Controller):
    """Data sets of one's own."""

    path = "/datasets"
    tags = ("evaluations",)

    @post(operation_id="UploadDataset", status_code=201, guards=[require("admin")])
    async def upload(
        self, data: Annotated[DatasetUpload, Body(media_type=RequestEncodingType.MULTI_PART)], desk: Desk
    ) -> DatasetMessage:
        """Keep a data set: multipart form data with one JSONL file in a field named `file`.

        Each line is `{"question", "answers", "documents"}`; see docs/evaluation.md. The whole file is checked
        here, and the first line at fault is named. The same content again gives the same id.
        """
        content = await data.file.read()
        name = data.file.filename or "dataset"
        dataset_id = await anyio.to_thread.run_sync(add_dataset, desk.engine, name[:200], content)
        return dataset_message(await anyio.to_thread.run_sync(get_dataset_entry, desk.engine, dataset_id))

    @get(operation_id="ListDatasets", sync_to_thread=True)
    def list(self, desk: Desk, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100) -> DatasetsMessage:
        """Uploaded data sets, the newest first."""
        return DatasetsMessage([dataset_message(entry) for entry in list_datasets(desk.engine, limit)])

    @delete("/{dataset_id:str}", operation_id="DeleteDataset", guards=[require("admin")], sync_to_thread=True)
    def remove(self, dataset_id: str, desk: Desk) -> None:
        """Remove a data set, every run over it with its scores, and the documents that it brought."""
        desk.delete_dataset(dataset_id)


class EvaluationsController(Controller):
    """Runs of a pipeline over the questions of a task or a data set."""

    path = "/evaluations"
    tags = ("evaluations",)

    @post(operation_id="StartEvaluation", status_code=202, guards=[require("admin")], sync_to_thread=True)
    def start(self, data: EvaluationRequest, desk: Desk) -> Response[EvaluationMessage]:
        """Start a run as a job. Settings and data are checked here, before any model time is spent."""
        name = data.task or get_dataset_entry(desk.engine, data.dataset or "").name
        [run] = desk.start_runs([data.settings(name)], data.dataset)
        return Response(
            evaluation_message(run, []), status_code=202, headers={"Location": f"/v1/evaluations/{run.id}"}
        )

    @get(operation_id="ListEvaluations", sync_to_thread=True)
    def list(self, desk: Desk, limit: Annotated[int, Parameter(ge=1, le=1000)] = 20) -> EvaluationsMessage:
        """The newest runs and how far they are."""
        return EvaluationsMessage([run_message(run) for run in list_runs(desk.engine, limit)])

    @get("/{run_id:str}", operation_id="GetEvaluation", sync_to_thread=True)
    def retrieve(self, run_id: str, desk: Desk) -> EvaluationMessage:
        """A run: its progress, and the means of its scores so far."""
        return _message(desk, get_run(desk.engine, run_id))

    @get("/{run_id:str}/scores", operation_id="ListScores", sync_to_thread=True)
    def scores(
        self,
        run_id: str,
        desk: Desk,
        limit: Annotated[int, Parameter(ge=1, le=1000)] = 100,
        cursor: str | None = None,
    ) -> ScoresMessage:
        """What each question came to, in their order, a page at a time."""
        run = get_run(desk.engine, run_id)
        found = list_scores(
            desk.engine, run.id, limit=limit + 1, after=-1 if cursor is None else _position(cursor)
        )
        return ScoresMessage(
            [score_message(score) for _, score in found[:limit]],
            str(found[limit - 1][0]) if len(found) > limit else None,
        )

    @delete("/{run_id:str}", operation_id="CancelEvaluation", status_code=202, guards=[require("admin")])
    async def cancel(self, run_id: str, desk: Desk) -> Response[EvaluationMessage]:
        """Ask a run to stop after the question in hand. What it has scored stays."""
        run = await anyio.to_thread.run_sync(cancel_run, desk.engine, run_id)
        return Response(await anyio.to_thread.run_sync(_message, desk, run), status_code=202)


def _message(desk: Desk, run: Run) -> EvaluationMessage:
    scores: list[Score] = [score for _, score in list_scores(desk.engine, run.id)]
    return evaluation_message(run, scores)


def _position(cursor: str) -> int:
    if not cursor.isdecimal() or len(cursor) > 9:
        raise InvalidRun(f"cursor {cursor[:80]!r}: expected a next_cursor of an earlier page")
    return int(cursor)
