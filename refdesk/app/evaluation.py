"""Evaluation jobs: runs over benchmarks and data sets, queued and done like any other job."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from refdesk.app.jobs import Job, add_job, cancel_job
from refdesk.app.worker import Progress, Stopping
from refdesk.database import transaction
from refdesk.eval.desk import Desk
from refdesk.eval.errors import EvaluationError
from refdesk.eval.plan import Plan, RunSettings, make_plan
from refdesk.eval.run import Run
from refdesk.eval.runner import do_run
from refdesk.eval.runs import add_run, get_dataset, get_run, run_of_job, settings_of
from refdesk.reader.errors import EngineClosed, ReaderError
from refdesk.retriever.collections import Collection, get_collection
from refdesk.retriever.documents import get_document
from refdesk.retriever.errors import RetrieverError


@dataclass(frozen=True)
class Evaluation:
    """The work of evaluation jobs."""

    desk: Desk

    kind = "evaluate"
    told = (EvaluationError, ReaderError, RetrieverError)

    def heal(self) -> None:
        """Nothing: what a question came to is one row, there or not."""

    def do(self, job: Job, progress: Progress) -> None:
        """See Work. Questions that have a score are not asked again."""
        run = run_of_job(self.desk.engine, job.id)
        progress("load", run.done)
        dataset = None if run.dataset is None else get_dataset(self.desk.engine, run.dataset)
        plan = make_plan(settings_of(run), dataset)
        try:
            do_run(self.desk, run, plan, progress)
        except EngineClosed as error:
            raise Stopping from error


def start_runs(engine: Engine, wanted: Sequence[RunSettings], dataset_id: str | None = None) -> list[Run]:
    """Queue runs over named tasks, or over an uploaded data set: all of them or, if one cannot be done, none.

    Raises:
        EvaluationError: a task, the data or a setting is at fault.
        UnknownCollection: the collection to ask is not there.
        UnknownDocument: it does not hold what the pipeline is to search.
    """
    dataset = None if dataset_id is None else get_dataset(engine, dataset_id)
    plans = [make_plan(settings, dataset) for settings in wanted]
    for plan in plans:
        if plan.settings.collection is not None:
            _check_held(engine, get_collection(engine, plan.settings.collection), plan)
    with transaction(engine) as connection:
        jobs = [add_job(connection, "evaluate", None, [], len(plan.examples)) for plan in plans]
        ids = [add_run(connection, job, plan, dataset_id) for job, plan in zip(jobs, plans, strict=True)]
    return [get_run(engine, run_id) for run_id in ids]


def _check_held(engine: Engine, collection: Collection, plan: Plan) -> None:
    if plan.pipeline.needs == "relevance":
        for source_id in dict.fromkeys(one for example in plan.examples for one in example.relevance):
            get_document(engine, collection, source_id)


def cancel_run(engine: Engine, key: str) -> Run:
    """Ask a run to stop; what it has scored stays. Raises UnknownRun."""
    run = get_run(engine, key)
    cancel_job(engine, run.job_id)
    return get_run(engine, run.id)
