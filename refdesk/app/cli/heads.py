"""`refdesk heads`: retaining heads, which know what to keep of a long text while it is read, and retrieval heads,
which look at what answers a question."""

from pathlib import Path
from typing import Any

import click

from refdesk.app.cli.output import (
    as_json,
    failing_clearly,
    list_unless_told,
    notes,
    open_desk,
    print_json,
    progress_bar,
)
from refdesk.app.cli.recipe_option import recipe_with, set_option
from refdesk.app.heads import HeadsEntry, heads_folder, list_heads, train_heads
from refdesk.app.retrieval_heads import choose_retrieval_heads, list_retrieval_heads
from refdesk.app.settings import Settings
from refdesk.craft.recipe import HeadsRecipe

_PARTS = 1000  # of the bar

lessons_option = click.option(
    "--lessons",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="What `craft prepare` wrote.",
)


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def heads(context: click.Context, /, as_json: bool) -> None:
    """List heads, train retaining ones, or choose retrieval ones."""
    list_unless_told(context, list_all)


@heads.command("list")
@as_json
@click.pass_obj
def list_all(settings: Settings, as_json: bool) -> None:
    """Retaining heads that were trained here, the newest first, then the shipped ones; then retrieval heads."""
    with failing_clearly():
        retaining, retrieval = list_heads(settings.data), list_retrieval_heads(settings.data)
    if as_json:
        kept = [{"kind": "retaining", "shipped": entry.shipped, **entry.card} for entry in retaining]
        print_json(kept + [{"kind": "retrieval", "shipped": shipped, **card} for shipped, card in retrieval])
        return
    lines = [(f"{entry.name}  {_facts(entry)}", entry.shipped) for entry in retaining]
    lines += [(f"retrieval heads {_chosen(card)}", shipped) for shipped, card in retrieval]
    for line, shipped in lines:
        click.echo(line + ("  shipped" if shipped else ""))


@heads.command()
@click.argument("name_or_folder")
@lessons_option
@click.option(
    "--adapter",
    metavar="NAME",
    help="The adapter that they are for; none: the model as it is.  [default: the service's]",
)
@set_option
@as_json
@click.pass_obj
def train(
    settings: Settings,
    /,
    name_or_folder: str,
    lessons: Path,
    adapter: str | None,
    values: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train retaining heads for the model. Interrupted or killed, the same command goes on with it."""
    recipe = recipe_with(values, HeadsRecipe())
    folder = heads_folder(settings.data, name_or_folder)
    with open_desk(settings) as desk, progress_bar() as bar:
        line = bar.add_task("read lessons", total=_PARTS)
        try:
            card = train_heads(
                desk,
                folder,
                lessons,
                adapter,
                recipe,
                lambda step: bar.update(
                    line,
                    description=f"loss {step.loss:.3g}, {step.left_s / 60:.0f} min left",
                    completed=int(_PARTS * step.share),
                ),
            )
        except KeyboardInterrupt:
            notes.print("stopped; the same command goes on with it")
            raise
    if as_json:
        print_json(card)
        return
    before, after = card["result"]["loss_before"], card["result"]["loss"]
    click.echo(
        f"{folder.name}: loss {before['all']:.3f} before, {after['all']:.3f} now;"
        f" overlap {before['overlap']:.3f} before, {after['overlap']:.3f} now"
    )


@heads.command()
@lessons_option
@click.option(
    "--adapter",
    metavar="NAME",
    help="Look as with this adapter; none: the model as it is.  [default: the service's]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is looked for.")
@as_json
@click.pass_obj
def choose(settings: Settings, /, lessons: Path, adapter: str | None, seed: int, as_json: bool) -> None:
    """Choose retrieval heads for the model, in place of any that were chosen before."""
    with open_desk(settings) as desk, progress_bar() as bar:
        line = bar.add_task("look", total=None)
        card = choose_retrieval_heads(
            desk, lessons, adapter, seed, lambda done, of: bar.update(line, completed=done, total=of)
        )
    if as_json:
        print_json(card)
        return
    click.echo(f"{_chosen(card)}; {card['questions']} questions, by lot {card['by_lot']:.2f}")


def _chosen(card: dict[str, Any]) -> str:
    if not card.keys() >= {"heads", "base_name", "found", "found_by_all"}:
        return "damaged: the card cannot be read, or lacks what they were chosen by"
    named = ", ".join(f"{layer}.{head}" for layer, head in card["heads"])
    return (
        f"{named} for {card['base_name']}  the answer's passage looked at most in {card['found']:.2f},"
        f" by all heads in {card['found_by_all']:.2f}"
    )


def _facts(entry: HeadsEntry) -> str:
    card = entry.card
    if not card:
        return "damaged: card.json cannot be read"
    adapter = f"adapter {card['adapter_name']}" if card["adapter_fingerprint"] else "no adapter"
    found = card["result"]["loss"]
    return f"for {card['base_name']}, {adapter}  loss {found['all']:.3f}, overlap {found['overlap']:.3f}"
