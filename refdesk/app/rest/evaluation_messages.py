"""What goes over the wire about evaluations."""

from datetime import datetime
from typing import Any

import msgspec

from refdesk.app.rest.messages import ProgressMessage, moment
from refdesk.eval.comparison import summarise
from refdesk.eval.part import Part
from refdesk.eval.pipelines import sees_question
from refdesk.eval.plan import RunSettings
from refdesk.eval.run import Run, Score
from refdesk.eval.runs import DatasetEntry
from refdesk.reader.answer_form import AnswerForm
from refdesk.reader.prompt import AskedReading
from refdesk.retriever.store import Search

_DEFAULT = RunSettings(task="")


class EvaluationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A run to start: over a named `task`, or over an uploaded data set by its id; see docs/evaluation.md."""

    task: str | None = None
    dataset: str | None = None
    pipeline: str = _DEFAULT.pipeline
    task_options: dict[str, str | int | float] = {}
    part: Part = _DEFAULT.part
    limit: int | None = None
    seed: int = _DEFAULT.seed
    k: int | None = None
    search: Search = _DEFAULT.search
    budget: int = _DEFAULT.budget
    max_new_tokens: int | None = None
    collection: str | None = None
    reading: AskedReading = _DEFAULT.reading
    memory: dict[str, Any] | None = None
    compression: dict[str, Any] | None = None
    form: AnswerForm | None = None
    abstain: float | None = _DEFAULT.abstain
    adapter: str | None = None
    metrics: list[str] | None = None

    def __post_init__(self) -> None:
        if (self.task is None) == (self.dataset is None):
            raise ValueError("expected either a task or a dataset")

    def settings(self, name: str) -> RunSettings:
        """The settings of a run over what is called `name`."""
        return RunSettings(
            task=name,
            pipeline=self.pipeline,
            task_options=self.task_options,
            part=self.part,
            limit=self.limit,
            seed=self.seed,
            k=self.k,
            search=self.search,
            budget=self.budget,
            max_new_tokens=self.max_new_tokens,
            collection=self.collection,
            reading=self.reading,
            memory=self.memory,
            compression=self.compression,
            form=self.form,
            abstain=self.abstain,
            adapter=self.adapter,
            metrics=None if self.metrics is None else tuple(self.metrics),
        )


class DatasetMessage(msgspec.Struct):
    """An uploaded data set."""

    id: str
    name: str
    examples: int
    created_at: datetime


class DatasetsMessage(msgspec.Struct):
    """Uploaded data sets, the newest first."""

    items: list[DatasetMessage]


class EstimateMessage(msgspec.Struct):
    """A mean over the `n` questions that it applies to, with its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


class RunMessage(msgspec.Struct, kw_only=True):
    """A run and how far it is."""

    id: str
    job: str
    dataset: str | None
    task: str
    pipeline: str
    sees_question: bool
    state: str
    progress: ProgressMessage
    error: str | None
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str
    created_at: datetime
    finished_at: datetime | None


class EvaluationMessage(RunMessage, kw_only=True):
    """A run, how far it is, and what it has come to so far.

    `scores`: quality metrics, the main one first; `costs`: means of counts and medians of seconds and speeds, over
    the questions that were answered;
    `unanswered`: questions that have no answer, such as those whose documents do not fit the window.
    """

    seconds_left: float | None
    scores: dict[str, EstimateMessage]
    costs: dict[str, float]
    unanswered: int


class EvaluationsMessage(msgspec.Struct):
    """Runs, the newest first."""

    items: list[RunMessage]


class ScoreMessage(msgspec.Struct):
    """What one question came to; `values` has quality and costs, null where a metric does not apply."""

    example: str
    question: str
    references: list[str]
    answer: str
    values: dict[str, float | None]
    facts: dict[str, str | int | float]
    error: str | None


class ScoresMessage(msgspec.Struct):
    """A page of scores in the order of the questions; `next_cursor` is null on the last one."""

    items: list[ScoreMessage]
    next_cursor: str | None


def dataset_message(entry: DatasetEntry) -> DatasetMessage:
    """A data set for the wire."""
    return DatasetMessage(entry.id, entry.name, entry.num_examples, moment(entry.created_at))


def run_message(run: Run) -> RunMessage:
    """A run for the wire."""
    return RunMessage(**_of_run(run))


def evaluation_message(run: Run, scores: list[Score]) -> EvaluationMessage:
    """A run for the wire, with the means of its scores so far."""
    row = summarise(run, scores, run.pipeline)
    spent = row.costs.get("seconds_total")
    over = run.state in ("succeeded", "failed", "cancelled")
    return EvaluationMessage(
        **_of_run(run),
        seconds_left=None if over or spent is None else spent * (run.total - run.done),
        scores={
            name: msgspec.convert(found, EstimateMessage, from_attributes=True)
            for name, found in row.quality.items()
        },
        costs=dict(row.costs),
        unanswered=row.unanswered,
    )


def _of_run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "job": run.job_id,
        "dataset": run.dataset,
        "task": run.task,
        "pipeline": run.pipeline,
        "sees_question": sees_question(run.pipeline, run.settings),
        "state": run.state,
        "progress": ProgressMessage(run.done, run.total),
        "error": run.error,
        "settings": {name: value for name, value in run.settings.items() if name != "benchmarks"},
        "versions": dict(run.versions),
        "commit": run.commit,
        "created_at": moment(run.created_at),
        "finished_at": None if run.finished_at is None else moment(run.finished_at),
    }


def score_message(score: Score) -> ScoreMessage:
    """A score for the wire."""
    return ScoreMessage(
        example=score.example_id,
        question=score.question,
        references=list(score.references),
        answer=score.answer,
        values=dict(score.values),
        facts=dict(score.facts),
        error=score.error,
    )
