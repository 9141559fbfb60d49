"""Runs in SQL: what was asked, what each question came to. The state of a run is that of its job."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from refdesk import schema
from refdesk.database import transaction
from refdesk.eval.dataset import Dataset, read_dataset
from refdesk.eval.errors import InvalidRun, UnknownDataset, UnknownRun
from refdesk.eval.plan import Plan, RunSettings
from refdesk.eval.run import Run, Score
from refdesk.retriever.documents import content_hash

_run, _score, _job = schema.evaluation.c, schema.evaluation_score.c, schema.job.c
_dataset = schema.dataset.c
_SHORTEST_KEY = 4
_FINISHED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """An uploaded data set, without its rows."""

    id: str
    name: str
    num_examples: int
    created_at: float


def add_dataset(engine: Engine, name: str, content: bytes) -> str:
    """Keep a data set, so that its runs can be gone on with; the same content is kept once. Returns its id.

    Raises:
        InvalidDataset: the first line at fault; nothing is stored.
    """
    dataset = read_dataset(content, name)
    dataset_id = content_hash(content)
    with transaction(engine) as connection:
        if connection.execute(select(_dataset.id).where(_dataset.id == dataset_id)).scalar() is None:
            values = {"id": dataset_id, "name": name, "content": content, "num_examples": len(dataset.rows)}
            connection.execute(insert(schema.dataset).values(**values, created_at=time.time()))
    return dataset_id


def get_dataset(engine: Engine, dataset_id: str) -> Dataset:
    """The data set of this id. Raises UnknownDataset."""
    with engine.connect() as connection:
        row = connection.execute(
            select(_dataset.name, _dataset.content).where(_dataset.id == dataset_id)
        ).one_or_none()
    if row is None:
        raise UnknownDataset(f"unknown data set {dataset_id!r}")
    return read_dataset(row.content, row.name)


def get_dataset_entry(engine: Engine, dataset_id: str) -> DatasetEntry:
    """What is known of a data set. Raises UnknownDataset."""
    found = _entries(engine, _dataset.id == dataset_id, limit=1)
    if not found:
        raise UnknownDataset(f"unknown data set {dataset_id!r}")
    return found[0]


def list_datasets(engine: Engine, limit: int) -> list[DatasetEntry]:
    """The newest data sets first."""
    return _entries(engine, None, limit=limit)


def add_run(connection: Connection, job_id: str, plan: Plan, dataset_id: str | None) -> str:
    """Note a run within the caller's transaction, which adds its job too; returns its id."""
    run_id = uuid.uuid4().hex
    connection.execute(
        insert(schema.evaluation).values(
            id=run_id,
            job_id=job_id,
            dataset_id=dataset_id,
            settings=plan.stored_settings(),
            metrics=list(plan.metrics),
            versions={"data": plan.data_digest},
            commit="",
        )
    )
    return run_id


def get_run(engine: Engine, key: str) -> Run:
    """The run of this id, or the only one whose id begins so. Raises UnknownRun."""
    found = _read(engine, _run.id.startswith(key, autoescape=True), limit=2) if len(key) >= _SHORTEST_KEY else []
    if not found:
        raise UnknownRun(
            f"unknown run {key!r}; expected an id, or at least the first {_SHORTEST_KEY} characters of one"
        )
    if len(found) > 1:
        raise UnknownRun(f"run {key!r}: the ids of several runs begin so")
    return found[0]


def list_runs(engine: Engine, limit: int, *, state: tuple[str, ...] = ()) -> list[Run]:
    """The newest runs first; only those in one of these states, if any are named."""
    return _read(engine, _job.state.in_(state) if state else None, limit=limit)


def run_of_job(engine: Engine, job_id: str) -> Run:
    """The run that a job does. Raises UnknownRun."""
    found = _read(engine, _run.job_id == job_id, limit=1)
    if not found:
        raise UnknownRun(f"job {job_id!r} does no run")
    return found[0]


def delete_run(engine: Engine, key: str) -> None:
    """Remove a run with its scores and its job.

    Raises:
        UnknownRun: no such run.
        InvalidRun: it is not finished.
    """
    run = get_run(engine, key)
    with transaction(engine) as connection:
        _delete_runs(connection, _run.id == run.id)


def delete_dataset(engine: Engine, dataset_id: str) -> None:
    """Remove a data set with every run over it, or nothing.

    Raises:
        UnknownDataset: no such data set.
        InvalidRun: a run over it is not finished.
    """
    get_dataset_entry(engine, dataset_id)
    with transaction(engine) as connection:
        _delete_runs(connection, _run.dataset_id == dataset_id)
        connection.execute(delete(schema.dataset).where(_dataset.id == dataset_id))


def _delete_runs(connection: Connection, condition: Any) -> None:
    runs = connection.execute(
        select(_run.id, _run.job_id, _job.state).join_from(schema.evaluation, schema.job).where(condition)
    ).all()
    for run in runs:
        if run.state not in _FINISHED:
            raise InvalidRun(f"run {run.id} is {run.state}; cancel it first")
    connection.execute(delete(schema.job).where(_job.id.in_([run.job_id for run in runs])))


def settings_of(run: Run) -> RunSettings:
    """The settings as they were given, defaults filled in."""
    values = dict(run.settings)
    values["metrics"] = tuple(values["metrics"])
    return RunSettings(**values)


def note_versions(engine: Engine, run_id: str, versions: Mapping[str, str], commit: str) -> None:
    """Note what a run is made with."""
    with transaction(engine) as connection:
        connection.execute(
            update(schema.evaluation).where(_run.id == run_id).values(versions=dict(versions), commit=commit)
        )


def add_score(connection: Connection, run_id: str, position: int, score: Score) -> None:
    """Note what a question came to."""
    values = asdict(score) | {"references": list(score.references)}
    connection.execute(insert(schema.evaluation_score).values(evaluation_id=run_id, position=position, **values))


def scored_ids(engine: Engine, run_id: str) -> set[str]:
    """The questions that need not be asked again."""
    with engine.connect() as connection:
        return set(connection.execute(select(_score.example_id).where(_score.evaluation_id == run_id)).scalars())


def list_scores(
    engine: Engine, run_id: str, *, limit: int | None = None, after: int = -1
) -> list[tuple[int, Score]]:
    """Positions and scores in the order of the questions, at most `limit` behind position `after`."""
    statement = (
        select(schema.evaluation_score)
        .where(_score.evaluation_id == run_id, _score.position > after)
        .order_by(_score.position)
        .limit(limit)
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).mappings().all()
    names = Score.__dataclass_fields__
    return [
        (row["position"], Score(**{name: row[name] for name in names} | {"references": tuple(row["references"])}))
        for row in rows
    ]


def _entries(engine: Engine, condition: Any, *, limit: int) -> list[DatasetEntry]:
    columns = (_dataset.id, _dataset.name, _dataset.num_examples, _dataset.created_at)
    statement = select(*columns).order_by(_dataset.created_at.desc()).limit(limit)
    if condition is not None:
        statement = statement.where(condition)
    with engine.connect() as connection:
        return [DatasetEntry(**row._mapping) for row in connection.execute(statement)]


def _read(engine: Engine, condition: Any, *, limit: int) -> list[Run]:
    done = (
        select(func.count()).where(_score.evaluation_id == _run.id).correlate(schema.evaluation).scalar_subquery()
    )
    statement = (
        select(
            schema.evaluation,
            _job.state,
            _job.total,
            _job.error,
            _job.created_at,
            _job.finished_at,
            done.label("done"),
        )
        .join_from(schema.evaluation, schema.job)
        .order_by(_job.created_at.desc(), _run.id)
        .limit(limit)
    )
    if condition is not None:
        statement = statement.where(condition)
    with engine.connect() as connection:
        return [_as_run(row) for row in connection.execute(statement)]


def _as_run(row: Row[Any]) -> Run:
    return Run(
        id=row.id,
        job_id=row.job_id,
        dataset=row.dataset_id,
        task=row.settings["task"],
        pipeline=row.settings["pipeline"],
        settings=row.settings,
        versions=row.versions,
        commit=row.commit,
        metrics=tuple(row.metrics),
        state=row.state,
        done=row.done,
        total=row.total,
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
