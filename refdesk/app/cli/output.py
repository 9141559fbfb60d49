"""What commands share: opening the desk, telling errors, printing for people or as JSON."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import structlog
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from refdesk.app.build import Desk
from refdesk.app.jobs import UnknownJob
from refdesk.app.keys import InvalidKey
from refdesk.app.memories import MemoryNotFound
from refdesk.app.settings import InvalidSetting, Settings
from refdesk.compressor.errors import InvalidCompression
from refdesk.craft.errors import CraftError
from refdesk.database import DatabaseUnavailable
from refdesk.eval.errors import EvaluationError
from refdesk.memory.errors import InvalidMemory
from refdesk.reader.errors import ReaderError
from refdesk.retriever.embedder import EmbedderNotFound
from refdesk.retriever.errors import RetrieverError
from refdesk.retriever.index import VectorIndexError

# Results go to standard output, everything about them to standard error.
notes = Console(stderr=True, highlight=False)

_TOLD = (
    CraftError,
    DatabaseUnavailable,
    EmbedderNotFound,
    EvaluationError,
    InvalidCompression,
    InvalidKey,
    InvalidMemory,
    InvalidSetting,
    MemoryNotFound,
    ReaderError,
    RetrieverError,
    UnknownJob,
    VectorIndexError,
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
in_collection = click.option(
    "--collection", "-c", default="default", show_default=True, help="The collection's name."
)


def list_unless_told(context: click.Context, listing: click.Command) -> None:
    """A group without a subcommand lists; options before a subcommand, which would be lost, are refused."""
    if context.invoked_subcommand is None:
        context.forward(listing)
        return
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"write the options behind {context.invoked_subcommand!r}", context)


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """Errors of ours end the command with their message and exit code 1, without a traceback."""
    try:
        yield
    except _TOLD as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def open_desk(settings: Settings) -> Iterator[Desk]:
    """A desk for the length of a command, with logs on standard error."""
    log_to_stderr(settings.log)
    with failing_clearly():
        desk = Desk(settings, report=lambda line: notes.print(line, style="dim", markup=False))
        try:
            yield desk
        finally:
            desk.close()


def log_to_stderr(level: str) -> None:
    """One line an event on standard error: coloured for a terminal, JSON for a log collector."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *([] if terminal else [structlog.processors.dict_tracebacks]),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def progress_bar() -> Progress:
    """How far something is, for people."""
    return Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=notes)


def print_json(value: Any) -> None:
    """A message, or anything msgspec knows, as indented JSON on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def read_file(path: Path) -> bytes:
    """The content of a file that a command was given."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from error
