"""Runs over a small data set, begun and done in this process."""

from collections.abc import Callable
from dataclasses import replace

from refdesk.app.evaluation import start_runs
from refdesk.eval.corpus import is_of_dataset
from refdesk.eval.plan import Plan, RunSettings, make_plan
from refdesk.eval.run import Run, Score
from refdesk.eval.runner import do_run
from refdesk.eval.runs import add_dataset, get_dataset, get_run, list_scores, settings_of
from refdesk.retriever.collections import collection_names
from tests.eval.conftest import SmallDesk

SETTINGS = RunSettings(task="harrow.jsonl", pipeline="top_k", max_new_tokens=8, k=2)


def begin(desk: SmallDesk, content: bytes, settings: RunSettings = SETTINGS) -> Run:
    """A run over an uploaded data set, queued."""
    return start_runs(desk.engine, [settings], add_dataset(desk.engine, settings.task, content))[0]


def plan_of(desk: SmallDesk, run: Run) -> Plan:
    """What the run is to do."""
    return make_plan(settings_of(run), None if run.dataset is None else get_dataset(desk.engine, run.dataset))


def finish(desk: SmallDesk, run: Run, progress: Callable[[str, int], None] = lambda stage, done: None) -> None:
    """Do what is left of the run."""
    do_run(desk, get_run(desk.engine, run.id), plan_of(desk, run), progress)


def scores(desk: SmallDesk, run: Run) -> list[Score]:
    """The scores, in the order of the questions."""
    return [score for _, score in list_scores(desk.engine, run.id)]


def dataset_collections(desk: SmallDesk, run: Run) -> list[str]:
    """Where runs over its data set search."""
    return [name for name in collection_names(desk.engine).values() if is_of_dataset(name, run.dataset or "")]


def collection_of(desk: SmallDesk, run: Run) -> str:
    """Where the run searched, if it is the only one over its data set."""
    (name,) = dataset_collections(desk, run)
    return name


def told_apart(name: str) -> bool:
    """A cost that depends on what the process did before."""
    return "seconds" in name or name.startswith("run_")


def without_times(rows: list[Score]) -> list[Score]:
    """The scores without the costs that another process may have otherwise."""
    return [
        replace(row, values={name: value for name, value in row.values.items() if not told_apart(name)})
        for row in rows
    ]
