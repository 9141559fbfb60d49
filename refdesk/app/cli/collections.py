"""`refdesk collections`: named sets of documents."""

import click

from refdesk.app.cli.adapters import adapter_option
from refdesk.app.cli.output import as_json, list_unless_told, open_desk, print_json
from refdesk.app.rest.messages import collection_message
from refdesk.app.settings import Settings
from refdesk.retriever.collections import list_collections


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def collections(context: click.Context, /, as_json: bool) -> None:
    """List, create and delete collections."""
    list_unless_told(context, list_all)


@collections.command("list")
@as_json
@click.pass_obj
def list_all(settings: Settings, as_json: bool) -> None:
    """Every collection and how much it holds."""
    with open_desk(settings) as desk:
        found = list_collections(desk.engine)
    if as_json:
        print_json([collection_message(*entry) for entry in found])
        return
    for collection, counts in found:
        click.echo(
            f"{collection.name}  {counts['documents']} documents  {counts['chunks']} chunks"
            f"  {collection.embedder} ({collection.dimension})"
        )


@collections.command()
@click.argument("name")
@click.option("--chunk-size", type=int, help="Tokens of a chunk.")
@click.option("--chunk-overlap", type=int, help="Tokens that a chunk repeats of the one before.")
@adapter_option
@click.pass_obj
def create(
    settings: Settings, name: str, chunk_size: int | None, chunk_overlap: int | None, adapter: str | None
) -> None:
    """Make an empty collection NAME."""
    with open_desk(settings) as desk:
        desk.create_collection(name, chunk_size, chunk_overlap, adapter)
    click.echo(f"created {name}")


@collections.command("set-adapter")
@click.argument("name")
@click.argument("adapter", required=False)
@click.pass_obj
def set_adapter(settings: Settings, name: str, adapter: str | None) -> None:
    """Answer the questions of collection NAME with ADAPTER; without one, with the service's own."""
    with open_desk(settings) as desk:
        desk.set_adapter(name, adapter)


@collections.command()
@click.argument("name")
@click.confirmation_option(prompt="Delete the collection with everything in it?")
@click.pass_obj
def delete(settings: Settings, name: str) -> None:
    """Remove the collection NAME with everything in it."""
    with open_desk(settings) as desk:
        desk.delete_collection(name)
    click.echo(f"deleted {name}")
