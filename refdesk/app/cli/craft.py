"""`refdesk craft`: make training data, and train an adapter on it."""

import time
from pathlib import Path

import click
import msgspec

from refdesk.app.adapters import AdapterEntry, get_adapter
from refdesk.app.build import Desk
from refdesk.app.cli.output import as_json, notes, open_desk, print_json, progress_bar, read_file
from refdesk.app.cli.recipe_option import recipe_with, set_option
from refdesk.app.craft import CraftSettings
from refdesk.app.lessons import SHIPPED_SOURCES, prepare, prepare_collection
from refdesk.app.rest.adapter_messages import adapter_message
from refdesk.app.settings import Settings
from refdesk.craft.recipe import DataRecipe, TrainingRecipe
from refdesk.eval.runs import add_dataset
from refdesk.eval.source_questions import TaskSource
from refdesk.reader.errors import AdapterNotFound

_UNFINISHED = ("queued", "running")


@click.group()
def craft() -> None:
    """Train the model to answer from your documents: lessons first, then an adapter."""


@craft.command("prepare")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--collection", "-c", help="Make the questions out of a collection.")
@click.option("--questions", type=click.IntRange(10, 100_000), default=1000, show_default=True, help="How many.")
@click.option("--task", "tasks", multiple=True, help="Take those of a benchmark's training part; may be repeated.")
@click.option("--shipped", is_flag=True, help="Take those that the shipped adapter learned from.")
@click.option("--limit", type=click.IntRange(1), help="So many questions of each benchmark.")
@set_option
@as_json
@click.pass_obj
def prepare_lessons(
    settings: Settings,
    /,
    folder: Path,
    collection: str | None,
    questions: int,
    tasks: tuple[str, ...],
    shipped: bool,
    limit: int | None,
    values: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write lessons into FOLDER, with their card. The same command writes the same lessons."""
    if bool(collection) + bool(tasks) + shipped != 1:
        raise click.UsageError("expected one of --collection, --task or --shipped")
    if limit and not tasks:
        raise click.UsageError("--limit is of benchmarks that --task names")
    recipe = recipe_with(values, DataRecipe())
    with open_desk(settings) as desk, progress_bar() as bar:
        line = bar.add_task("", total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(line, description=stage, completed=done, total=total)

        if collection:
            card = prepare_collection(desk, collection, questions, recipe, folder, progress)
        else:
            sources = SHIPPED_SOURCES if shipped else [TaskSource(task, limit=limit) for task in tasks]
            card = prepare(desk, sources, recipe, settings.benchmarks, folder, progress)
    if as_json:
        print_json(card)
        return
    made = card["training"]
    click.echo(f"{made['exercises']} questions in {made['lessons']} lessons: {folder}")


@craft.command()
@click.argument("name")
@click.option("--lessons", type=click.Path(path_type=Path, file_okay=False), help="What `craft prepare` wrote.")
@click.option("--dataset", type=click.Path(path_type=Path, dir_okay=False), help="Questions of your own, JSONL.")
@click.option("--collection", "-c", help="Make questions out of a collection first.")
@click.option("--questions", type=int, default=1000, show_default=True, help="How many, of a collection.")
@click.option(
    "--start", metavar="NAME", help="The adapter to begin with: by default the service's; none for none."
)
@set_option
@as_json
@click.pass_obj
def train(
    settings: Settings,
    /,
    name: str,
    lessons: Path | None,
    dataset: Path | None,
    collection: str | None,
    questions: int,
    start: str | None,
    values: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train the adapter NAME. Interrupted or killed, the same command goes on with it."""
    with open_desk(settings) as desk:
        wanted = CraftSettings(
            dataset=None if dataset is None else add_dataset(desk.engine, dataset.name, read_file(dataset)),
            collection=collection,
            questions=questions,
            lessons=None if lessons is None else str(lessons.resolve()),
            start=start,
            training=recipe_with(values, TrainingRecipe()),
        )
        entry = _unfinished(desk, name)
        if entry is None:
            entry = desk.start_training(name, wanted)
        elif msgspec.convert(entry.settings, CraftSettings) != wanted:
            raise click.ClickException(f"adapter {name!r} is in work with other settings; choose another name")
        desk.start("craft")
        entry = _watch(desk, entry)
        if as_json:
            print_json(adapter_message(entry))
    if entry.card is None:
        raise click.ClickException(f"{name}: {entry.error or entry.state}")
    if not as_json:
        result = entry.card["result"]
        click.echo(f"{name}: loss {result['loss_before']['all']:.3f} before, {result['loss']['all']:.3f} now")


def _unfinished(desk: Desk, name: str) -> AdapterEntry | None:
    try:
        entry = get_adapter(desk.engine, name)
    except AdapterNotFound:
        return None
    return entry if entry.state in _UNFINISHED else None


def _watch(desk: Desk, entry: AdapterEntry) -> AdapterEntry:
    with progress_bar() as bar:
        line = bar.add_task(entry.stage, total=entry.total)
        try:
            while (entry := get_adapter(desk.engine, entry.name)).state in _UNFINISHED:
                bar.update(line, description=entry.stage, completed=entry.done)
                time.sleep(0.5)
        except KeyboardInterrupt:
            notes.print("stopped; the same command goes on with it")
            raise
        bar.update(line, description=entry.stage, completed=entry.done)
    return entry
