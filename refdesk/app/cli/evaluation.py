"""`refdesk eval`: how good the answers are, and whether a change made them better."""

import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from refdesk.app.build import Desk
from refdesk.app.cli.adapters import adapter_option
from refdesk.app.cli.ask import abstain_option
from refdesk.app.cli.named_values import compression_option, memory_option
from refdesk.app.cli.output import as_json, list_unless_told, notes, open_desk, print_json, read_file
from refdesk.app.evaluation import cancel_run
from refdesk.app.rest.evaluation_messages import evaluation_message, run_message, score_message
from refdesk.app.settings import Settings
from refdesk.eval.comparison import Comparison, compare
from refdesk.eval.metrics import METRICS
from refdesk.eval.part import Part
from refdesk.eval.pipelines import PIPELINES
from refdesk.eval.plan import RunSettings
from refdesk.eval.run import Run, Score
from refdesk.eval.runs import add_dataset, delete_run, get_run, list_runs, list_scores
from refdesk.eval.table import markdown_table, terminal_tables
from refdesk.eval.tasks import TASKS
from refdesk.reader.answer_form import AnswerForm
from refdesk.reader.prompt import AskedReading
from refdesk.retriever.store import Search

_DEFAULT = RunSettings(task="")
_UNFINISHED = ("queued", "running")


@click.group("eval", invoke_without_command=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@as_json
@click.pass_context
def evaluation(context: click.Context, /, limit: int, as_json: bool) -> None:
    """Evaluate on benchmarks or on questions of your own, and compare runs."""
    list_unless_told(context, list_newest)


@evaluation.command()
@click.argument("task")
@click.option("--pipeline", "-p", "pipelines", multiple=True, help="What the reader sees; may be repeated.")
@click.option("--option", "-o", "options", multiple=True, metavar="NAME=VALUE", help="An option of the task.")
@click.option("--part", type=click.Choice(get_args(Part)), default=_DEFAULT.part, show_default=True)
@click.option("--limit", type=int, help="That many questions, drawn by the seed; all of them if left out.")
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True)
@click.option("-k", type=int, help="Chunks to retrieve.")
@click.option("--search", type=click.Choice(get_args(Search)), default=_DEFAULT.search, show_default=True)
@click.option("--budget", type=int, default=_DEFAULT.budget, show_default=True, help="Tokens, where text is cut.")
@click.option("--max-new-tokens", type=int, help="The longest answer; the task's own if left out.")
@click.option("--reading", type=click.Choice(get_args(AskedReading)), default=_DEFAULT.reading, show_default=True)
@memory_option
@compression_option
@click.option("--form", type=click.Choice(get_args(AnswerForm)), help="The task's own if left out.")
@abstain_option
@adapter_option
@click.option("--metric", "metrics", multiple=True, help="In place of the task's own; may be repeated.")
@click.option("--collection", "-c", help="Where a data set without documents of its own is asked.")
@click.option("--shared-data", metavar="PATH|hub:ID", help="Benchmark data, in place of REFDESK_SHARED_DATA.")
@as_json
@click.pass_obj
def run(
    settings: Settings,
    /,
    task: str,
    pipelines: tuple[str, ...],
    options: tuple[str, ...],
    metrics: tuple[str, ...],
    shared_data: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Run TASK: a benchmark (`refdesk eval tasks` lists them), or a JSONL file of your own.

    Interrupted with Ctrl-C, or killed, it is gone on with by `refdesk eval resume`. Exit code 1 if a run failed.
    """
    dataset = Path(task) if task.endswith(".jsonl") else None
    base = RunSettings(
        task=task if dataset is None else dataset.name,
        task_options=_options(options),
        metrics=metrics or None,
        **values,
    )
    if shared_data is not None:
        settings = replace(settings, shared_data=shared_data)
    with open_desk(settings) as desk:
        dataset_id = None if dataset is None else add_dataset(desk.engine, dataset.name, read_file(dataset))
        chosen = [replace(base, pipeline=name) for name in pipelines or (base.pipeline,)]
        runs = desk.start_runs(chosen, dataset_id)
        desk.start("evaluate")
        done = [_watch(desk, one) for one in runs]
        _tell(desk, done, as_json)
    sys.exit(0 if all(one.state == "succeeded" for one in done) else 1)


@evaluation.command()
@as_json
@click.pass_obj
def resume(settings: Settings, as_json: bool) -> None:
    """Go on with every run that is not finished, the oldest first."""
    with open_desk(settings) as desk:
        runs = list(reversed(list_runs(desk.engine, 1000, state=_UNFINISHED)))
        if not runs:
            notes.print("every run is finished")
            return
        desk.start("evaluate")
        done = [_watch(desk, one) for one in runs]
        _tell(desk, done, as_json)
    sys.exit(0 if all(one.state == "succeeded" for one in done) else 1)


@evaluation.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@as_json
@click.pass_obj
def list_newest(settings: Settings, limit: int, as_json: bool) -> None:
    """The newest runs."""
    with open_desk(settings) as desk:
        found = list_runs(desk.engine, limit)
    if as_json:
        print_json([run_message(one) for one in found])
        return
    for one in found:
        options = "".join(f" {name}={value}" for name, value in one.settings["task_options"].items())
        click.echo(
            f"{one.id[:8]}  {one.state:9}  {one.done:5} of {one.total:5}  {one.task}{options}  {one.pipeline}"
            + (f"  {one.error}" if one.error else "")
        )


@evaluation.command()
@click.argument("run_id")
@click.option("--questions", is_flag=True, help="What each question came to.")
@as_json
@click.pass_obj
def show(settings: Settings, run_id: str, questions: bool, as_json: bool) -> None:
    """One run. RUN_ID may be its beginning."""
    with open_desk(settings) as desk:
        one = get_run(desk.engine, run_id)
        scores = _scores(desk, one)
        if as_json:
            print_json(
                [score_message(score) for score in scores] if questions else evaluation_message(one, scores)
            )
            return
        _print_tables(compare([(one, scores)]))
    for score in scores if questions else ():
        main = score.values.get(one.metrics[0])
        click.echo(f"{'-' if main is None else format(main, '.3f'):6} {score.example_id}: {score.question}")
        click.echo(f"       {score.error or score.answer!r} (expected {', '.join(map(repr, score.references))})")


@evaluation.command("compare")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a report with plots here.")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
@click.pass_obj
def compare_runs(settings: Settings, run_ids: tuple[str, ...], html: Path | None, markdown: bool) -> None:
    """Compare runs on the questions they share, each with the first of its task."""
    with open_desk(settings) as desk:
        comparison = _compared(desk, [get_run(desk.engine, run_id) for run_id in dict.fromkeys(run_ids)])
    if markdown:
        click.echo(markdown_table(comparison))
    else:
        _print_tables(comparison)
    if html is not None:
        from refdesk.eval.report import html_report  # it draws, which takes a while to import

        html.write_text(html_report(comparison), encoding="utf-8")
        notes.print(f"report: {html}", markup=False)


@evaluation.command()
@click.argument("run_id")
@click.pass_obj
def cancel(settings: Settings, run_id: str) -> None:
    """Ask a run to stop after the question in hand. What it has scored stays."""
    with open_desk(settings) as desk:
        click.echo("cancelling" if cancel_run(desk.engine, run_id).state == "running" else "cancelled")


@evaluation.command("delete")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@click.pass_obj
def remove(settings: Settings, run_ids: tuple[str, ...]) -> None:
    """Remove finished runs with their scores."""
    with open_desk(settings) as desk:
        for run_id in run_ids:
            delete_run(desk.engine, run_id)


@evaluation.command()
def tasks() -> None:
    """The benchmarks with their options, the pipelines and the metrics."""
    click.secho("Tasks", bold=True)
    for name, task in TASKS.items():
        options = ", ".join(f"{option.name}={option.default}" for option in fields(task))
        click.echo(f"  {name:16} {task.summary}" + (f" ({options})" if options else ""))
        click.echo(f"  {'':16} {', '.join(task.metrics)}")
    click.secho("Pipelines", bold=True)
    for name, pipeline in PIPELINES.items():
        click.echo(f"  {name:16} {pipeline.summary}")
    click.secho("Metrics", bold=True)
    for name, metric in METRICS.items():
        click.echo(f"  {name:16} {metric.description}")


def _options(given: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise click.BadParameter(f"{one!r}; expected NAME=VALUE", param_hint="--option")
        options[name] = value
    return options


def _watch(desk: Desk, one: Run) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, speed_estimate_period=600) as progress:
        bar = progress.add_task(f"{one.task} {one.pipeline}", total=one.total, completed=one.done)
        try:
            while (one := get_run(desk.engine, one.id)).state in _UNFINISHED:
                progress.update(bar, completed=one.done)
                time.sleep(0.2)
        except KeyboardInterrupt:
            notes.print("stopped; `refdesk eval resume` goes on with it")
            raise
        progress.update(bar, completed=one.done)
    if one.error:
        notes.print(f"{one.task} {one.pipeline}: {one.error}", style="red", markup=False)
    return one


def _tell(desk: Desk, runs: list[Run], as_json: bool) -> None:
    if as_json:
        print_json([evaluation_message(one, _scores(desk, one)) for one in runs])
    else:
        _print_tables(_compared(desk, runs))


def _compared(desk: Desk, runs: list[Run]) -> Comparison:
    return compare([(one, _scores(desk, one)) for one in runs])


def _scores(desk: Desk, one: Run) -> list[Score]:
    return [score for _, score in list_scores(desk.engine, one.id)]


def _print_tables(comparison: Comparison) -> None:
    console = Console(width=None if sys.stdout.isatty() else 300, highlight=False)
    for table in terminal_tables(comparison):
        console.print(table)
