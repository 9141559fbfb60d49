"""`refdesk ask`: one question, answered on the terminal."""

from dataclasses import replace
from typing import Any, get_args

import click

from refdesk.app.cli.adapters import adapter_option
from refdesk.app.cli.named_values import compression_option, memory_option
from refdesk.app.cli.output import as_json, in_collection, notes, open_desk, print_json
from refdesk.app.context import AnswerContext, AskedContext
from refdesk.app.rest.messages import AnswerMessage, answer_message
from refdesk.app.settings import Settings
from refdesk.compressor.options import compression_options
from refdesk.memory.options import Places, memory_options
from refdesk.reader.answer_form import AnswerForm
from refdesk.reader.prompt import AskedReading
from refdesk.reader.qa import AnswerOptions, Done, Token

_DEFAULT = AnswerOptions()


abstain_option = click.option(
    "--abstain",
    type=float,
    metavar="P",
    help="Say that it cannot be found from this probability of it on, 1: never.  [default: as the model has it]",
)


@click.command()
@click.argument("questions", nargs=-1, required=True, metavar="QUESTION...")
@in_collection
@click.option("-k", type=int, default=_DEFAULT.k, show_default=True, help="Passages to retrieve.")
@click.option("--document", "documents", multiple=True, help="Only this document; may be repeated.")
@click.option(
    "--context",
    type=click.Choice(get_args(AskedContext)),
    default="passages",
    show_default=True,
    help="Passages that are retrieved, or found in remembered documents, or attend to these themselves.",
)
@click.option("--entries", type=int, help="How much of whole documents is attended to at a time.  [default: 64]")
@click.option(
    "--places", type=click.Choice(get_args(Places)), help="Where that stands for who reads.  [default: clipped]"
)
@click.option("--max-new-tokens", type=int, help="64 for a short answer, 256 for a long one, 160 with a quote.")
@click.option("--temperature", type=float, default=_DEFAULT.temperature, show_default=True)
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option("--reading", type=click.Choice(get_args(AskedReading)), default=_DEFAULT.reading, show_default=True)
@memory_option
@compression_option
@click.option("--form", type=click.Choice(get_args(AnswerForm)), default=_DEFAULT.form, show_default=True)
@abstain_option
@adapter_option
@as_json
@click.pass_obj
def ask(
    settings: Settings,
    /,
    questions: tuple[str, ...],
    collection: str,
    documents: tuple[str, ...],
    as_json: bool,
    memory: dict[str, Any] | None,
    compression: dict[str, Any] | None,
    adapter: str | None,
    context: AskedContext,
    entries: int | None,
    places: Places | None,
    **options: Any,
) -> None:
    """Answer each QUESTION from the documents of a collection, with citations and what it cost."""
    with open_desk(settings) as desk:
        # What was asked for is checked first, and nothing is loaded for a mistake.
        answer_options = AnswerOptions(documents=documents or None, memory=memory_options(memory), **options)
        asked, asked_context = compression_options(compression), AnswerContext(context, entries, places)
        asked_context.check(answer_options, asked)
        chosen = desk.adapter(adapter, collection)
        shorten = desk.shortener(asked)
        answer_options = replace(answer_options, adapter=chosen, heads=desk.heads(chosen), shorten=shorten)
        qa = desk.qa(collection)
        for question in questions:
            if len(questions) > 1 and not as_json:
                click.secho(question, bold=True)
            question_options = asked_context.chosen(desk, collection, question, answer_options)
            for event in qa.stream(question, question_options):
                if isinstance(event, Token) and not as_json:
                    click.echo(event.text, nl=False)
                elif isinstance(event, Done):
                    message = answer_message(event.answer, desk.model_name)
                    print_json(message) if as_json else _print_sources(message)


def _print_sources(answer: AnswerMessage) -> None:
    click.echo()
    for number, citation in enumerate(answer.citations, start=1):
        page = f", page {citation.page}" if citation.page is not None else ""
        quote = " ".join(citation.quote.split())
        click.echo(
            f"  [{number}] {citation.document}{page}, characters {citation.start}-{citation.end}: “{quote}”"
        )
    usage, held, shorter = answer.usage, answer.usage.memory, answer.usage.compression
    less = ""
    if shorter.strategy != "none":
        less = f" ({shorter.tokens_after} of {shorter.tokens_before} tokens, by {shorter.strategy})"
    read = f"{usage.passages_used} of {usage.passages_retrieved} passages read {usage.reading}{less}"
    if usage.context == "attended":
        read = f"over documents of {usage.document_tokens:,} tokens"
    elif usage.context == "document":
        read += f", found in documents of {usage.document_tokens:,} tokens"
    notes.print(
        f"  {usage.prompt_tokens} + {usage.completion_tokens} tokens, {read}, {held.peak_entries:,} KV entries"
        f" ({held.peak_bytes / 2**20:.1f} MiB), {usage.seconds['total']:.2f} s"
        + (f", {held.freed_bytes / 2**20:.1f} MiB freed by {usage.memory_policy}" if held.freed_bytes else "")
        + (f", {usage.passages_dropped} passages dropped to fit the window" if usage.passages_dropped else ""),
        style="dim",
    )
