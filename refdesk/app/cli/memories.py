"""`refdesk remember` and `refdesk memories`: documents, or their passages, read once for the answers to come."""

import sys
from typing import Any, get_args

import click

from refdesk.app.cli.adapters import adapter_option
from refdesk.app.cli.job_progress import tell, watch
from refdesk.app.cli.output import as_json, in_collection, list_unless_told, open_desk, print_json
from refdesk.app.document_reading import memory_readers
from refdesk.app.memories import Of
from refdesk.app.remembering import MemorySettings
from refdesk.app.rest.memory_messages import document_memory_message
from refdesk.app.rest.messages import job_message
from refdesk.app.settings import Settings
from refdesk.reader.thinning import Keep
from refdesk.retriever.collections import get_collection
from refdesk.retriever.documents import get_document


@click.command()
@click.argument("documents", nargs=-1, metavar="[DOCUMENT...]")
@in_collection
@click.option(
    "--of",
    type=click.Choice(get_args(Of)),
    default="document",
    show_default=True,
    help="Each document as a whole, or its passages, for answers that read them apart.",
)
@click.option("--rate", type=float, help="Hold one in so many entries.  [default: 1]")
@click.option(
    "--keep",
    type=click.Choice(get_args(Keep)),
    help="What chooses them: retaining heads (locret), or infinipot.  [default: the heads, if there are any]",
)
@click.option("--near", type=int, help="Last tokens that every layer holds.  [default: 256]")
@click.option(
    "--layer", "layers", type=int, multiple=True, help="A layer that retrieves.  [default: the upper half]"
)
@click.option("--window", type=int, help="Tokens read at once.  [default: 2048]")
@click.option("--overlap", type=int, help="Of them, for what is kept of the others.  [default: a quarter]")
@adapter_option
@as_json
@click.pass_obj
def remember(
    settings: Settings,
    /,
    documents: tuple[str, ...],
    collection: str,
    of: Of,
    adapter: str | None,
    layers: tuple[int, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Read each DOCUMENT (all of the collection, if none is named) into a memory, to be asked with `--context
    document`; or its passages, which answers with `--reading apart` then find read. What was begun and killed is
    gone on with at the next start. Exit code 1 if any cannot be read."""
    options["layers"] = layers or None
    given = {name: value for name, value in options.items() if value is not None}
    wanted = MemorySettings(adapter, given, of)
    with open_desk(settings) as desk:
        target = get_collection(desk.engine, collection)
        job_id = desk.remember(target, documents, wanted)
        desk.start("memory")
        job = watch(desk, job_id)
    print_json(job_message(job)) if as_json else tell(job)
    sys.exit(0 if job.state == "succeeded" else 1)


@click.group(invoke_without_command=True)
@in_collection
@as_json
@click.pass_context
def memories(context: click.Context, /, collection: str, as_json: bool) -> None:
    """List and delete memories of documents; `refdesk remember` makes them."""
    list_unless_told(context, list_all)


@memories.command("list")
@in_collection
@as_json
@click.pass_obj
def list_all(settings: Settings, collection: str, as_json: bool) -> None:
    """Every memory of a collection, and whether it is of the model and adapter that answer now."""
    with open_desk(settings) as desk:
        found = desk.memories.list(get_collection(desk.engine, collection))
        readers = memory_readers(desk, desk.adapter(None, collection))
    messages = [document_memory_message(entry, readers) for entry in found]
    if as_json:
        print_json(messages)
        return
    for one in messages:
        chosen = f" by {one.options['keep']}" if "keep" in one.options else ""
        click.echo(
            f"{one.tokens:10,} tokens  {one.bytes / 2**20:10.1f} MiB  rate {one.rate:g}{chosen}"
            f"  adapter {one.adapter}  of {one.of}  {'fits' if one.fits else 'of another reader'}  {one.document}"
        )


@memories.command()
@click.argument("document")
@in_collection
@click.pass_obj
def delete(settings: Settings, document: str, collection: str) -> None:
    """Remove the memories of DOCUMENT (an id or a source id); the document stays."""
    with open_desk(settings) as desk:
        target = get_collection(desk.engine, collection)
        desk.memories.drop(get_document(desk.engine, target, document))
    click.echo(f"deleted the memories of {document}")
