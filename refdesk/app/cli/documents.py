"""`refdesk documents`: what a collection holds, and taking it out."""

import click

from refdesk.app.cli.output import as_json, in_collection, list_unless_told, open_desk, print_json
from refdesk.app.rest.messages import document_message
from refdesk.app.settings import Settings
from refdesk.retriever.collections import get_collection
from refdesk.retriever.documents import document_text, get_document, list_documents

_PAGE = 500


@click.group(invoke_without_command=True)
@in_collection
@as_json
@click.pass_context
def documents(context: click.Context, /, collection: str, as_json: bool) -> None:
    """List, show and delete documents."""
    list_unless_told(context, list_all)


@documents.command("list")
@in_collection
@as_json
@click.pass_obj
def list_all(settings: Settings, collection: str, as_json: bool) -> None:
    """Every searchable document of a collection."""
    with open_desk(settings) as desk:
        target = get_collection(desk.engine, collection)
        found, after = [], None
        while page := list_documents(desk.engine, target, limit=_PAGE, after=after):
            found += page
            after = page[-1].source_id
    if as_json:
        print_json([document_message(document) for document in found])
        return
    for document in found:
        click.echo(
            f"{document.id}  {document.num_chunks:6} chunks  {document.size_bytes:10} bytes  {document.source_id}"
        )


@documents.command()
@click.argument("document")
@in_collection
@click.pass_obj
def text(settings: Settings, document: str, collection: str) -> None:
    """Print the text of DOCUMENT, the one that citations point into."""
    with open_desk(settings) as desk:
        found = get_document(desk.engine, get_collection(desk.engine, collection), document)
        click.echo(document_text(desk.engine, found.id), nl=False)


@documents.command()
@click.argument("document")
@in_collection
@click.pass_obj
def delete(settings: Settings, document: str, collection: str) -> None:
    """Remove DOCUMENT (an id or a source id) with its text, chunks and vectors."""
    with open_desk(settings) as desk:
        desk.delete_document(get_collection(desk.engine, collection), document)
    click.echo(f"deleted {document}")
