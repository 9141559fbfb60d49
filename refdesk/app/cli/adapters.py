"""`refdesk adapters`: what answers, besides the model as it is."""

from pathlib import Path

import click

from refdesk.app.adapters import AdapterEntry, get_adapter, list_adapters
from refdesk.app.cli.output import as_json, list_unless_told, open_desk, print_json
from refdesk.app.rest.adapter_messages import adapter_message
from refdesk.app.settings import Settings

adapter_option = click.option(
    "--adapter",
    metavar="NAME",
    help="The adapter to answer with; none: the model as it is.  [default: the service's]",
)


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def adapters(context: click.Context, /, as_json: bool) -> None:
    """List, show, add and delete adapters; `refdesk craft train` makes them."""
    list_unless_told(context, list_all)


@adapters.command("list")
@as_json
@click.pass_obj
def list_all(settings: Settings, as_json: bool) -> None:
    """Every adapter: the one that is shipped, then the newest first."""
    with open_desk(settings) as desk:
        found = list_adapters(desk.engine)
    if as_json:
        print_json([adapter_message(entry) for entry in found])
        return
    for entry in found:
        click.echo(f"{entry.name}  {_state(entry)}" + (f"  {entry.error}" if entry.error else ""))


@adapters.command()
@click.argument("name")
@click.pass_obj
def show(settings: Settings, name: str) -> None:
    """The card of an adapter: what it was made of, and what it came to."""
    with open_desk(settings) as desk:
        print_json(adapter_message(get_adapter(desk.engine, name)))


@adapters.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def add(settings: Settings, name: str, folder: Path) -> None:
    """Take in an adapter that was trained elsewhere, as NAME.

    FOLDER is what training left there: the folder adapters/NAME of the data folder.
    """
    with open_desk(settings) as desk:
        entry = desk.adopt_adapter(name, folder)
    click.echo(f"{entry.name}  {_state(entry)}")


@adapters.command()
@click.argument("name")
@click.confirmation_option(prompt="Delete the adapter?")
@click.pass_obj
def delete(settings: Settings, name: str) -> None:
    """Remove the adapter NAME."""
    with open_desk(settings) as desk:
        desk.delete_adapter(name)
    click.echo(f"deleted {name}")


def _state(entry: AdapterEntry) -> str:
    if entry.card is None:
        return f"{entry.state}  {entry.stage}  {entry.done / entry.total:.0%}"
    return f"ready  for {entry.card['base_name']}  loss {entry.card['result']['loss']['all']:.3f}"
