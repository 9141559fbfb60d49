"""The default model under every baseline pipeline, and the default embedder's ranking.

Scores are kept in `.bench/evaluation`: a run cut short is gone on with, one done at this commit is not repeated.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from refdesk.app.build import Desk
from refdesk.app.jobs import cancel_job
from refdesk.app.settings import Settings
from refdesk.eval.comparison import compare
from refdesk.eval.plan import RunSettings, make_plan
from refdesk.eval.provenance import source_commit
from refdesk.eval.report import html_report
from refdesk.eval.run import Run
from refdesk.eval.runs import get_run, list_runs, list_scores
from refdesk.eval.table import markdown_table
from refdesk.retriever.store import Search

FOLDER = Path(".bench/evaluation")
TAKES = "about 80 minutes on two cores"
EVERY = ("closed_book", "oracle", "truncation", "top_k", "full")


def asked() -> list[RunSettings]:
    """The runs, the quickest sets first."""
    # The same questions are asked again; what is read closed book, or of gold alone, is the same too, and where
    # the gold document stands makes no difference to the best three.
    found: tuple[str, ...] = ("truncation", "top_k", "full")
    moved: tuple[str, ...] = ("truncation", "full")
    sets: list[tuple[str, int, dict[str, int], tuple[str, ...]]] = [
        ("nq-oracle", 100, {}, EVERY),
        ("squad", 100, {}, EVERY),
        ("pubmedqa", 100, {}, EVERY),
        ("needle", 50, {"words": 2000}, EVERY),
        ("needle", 50, {"words": 20000}, found),
        ("sec10q", 50, {}, ("closed_book", "truncation", "top_k", "top_k_gold", "full")),
        *(("nq", 50, {"gold_at": at}, moved if at else EVERY) for at in (0, 4, 9, 14, 19)),
    ]
    runs = [
        RunSettings(task=task, task_options=options, pipeline=pipeline, limit=limit, adapter="none")
        for task, limit, options, pipelines in sets
        for pipeline in pipelines
    ]
    searches: tuple[Search, ...] = ("dense", "hybrid", "lexical")
    return [
        RunSettings(task=task, search=search) for task in ("scifact", "cranfield") for search in searches
    ] + runs


def main(data: Path) -> None:
    """The baselines."""
    sys.stderr.write(f"evaluation: {TAKES}; what is done already at this commit is not done again\n")
    evaluate(data, asked())


def evaluate(
    data: Path, asked: list[RunSettings], kv_memory_mb: int = Settings.kv_memory_mb, folder: Path = FOLDER
) -> None:
    """Do what is not done yet in `folder`, print the tables, write a report for each task. What the runs share of
    passages is kept within `kv_memory_mb`."""
    desk = Desk(Settings(data=folder.resolve(), shared_data=str(data), kv_memory_mb=kv_memory_mb))
    commit = source_commit()
    known = [_known(desk, settings, commit) for settings in asked]
    for left in list_runs(desk.engine, 1000, state=("queued", "running")):
        if left not in known:  # of a measurement that was killed; it would be gone on with first
            cancel_job(desk.engine, left.job_id)
    desk.start("evaluate")
    started = time.monotonic()
    by_task: dict[str, list[Run]] = {}
    for settings, begun in zip(asked, known, strict=True):
        run = begun or desk.start_runs([settings])[0]
        by_task.setdefault(settings.task, []).append(run)
    for task, runs in by_task.items():
        done = [_finished(desk, run) for run in runs]
        comparison = compare([(run, [score for _, score in list_scores(desk.engine, run.id)]) for run in done])
        print(f"\n### {task}\n\n{markdown_table(comparison)}", flush=True)
        (folder / f"{task}.html").write_text(html_report(comparison), encoding="utf-8")
    desk.close()
    sys.stderr.write(f"evaluation: {(time.monotonic() - started) / 60:.0f} minutes\n")


def _known(desk: Desk, settings: RunSettings, commit: str) -> Run | None:
    """A run of the same settings at this commit, done or to be gone on with."""
    wanted = msgspec.json.decode(
        msgspec.json.encode(make_plan(replace(settings, benchmarks=desk.settings.benchmarks)).stored_settings())
    )
    for run in list_runs(desk.engine, 1000, state=("queued", "running", "succeeded")):
        if run.commit in ("", commit) and run.settings == wanted:
            return run
    return None


def _finished(desk: Desk, run: Run) -> Run:
    while (run := get_run(desk.engine, run.id)).state in ("queued", "running"):
        time.sleep(1)
        sys.stderr.write(f"\r{run.task} {run.pipeline}: {run.done} of {run.total}   ")
    sys.stderr.write(f"\r{run.task} {run.pipeline}: {run.state} {run.error or ''}{' ' * 20}\n")
    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
