"""The command line: `refdesk COMMAND`, each with `--help`, exit codes and `--json`.

Exit codes: 0 done, 1 the work could not be done (all or in part), 2 the command was not understood.
"""

import os
from pathlib import Path

import click

from refdesk import __version__
from refdesk.app.cli.adapters import adapters
from refdesk.app.cli.ask import ask
from refdesk.app.cli.collections import collections
from refdesk.app.cli.craft import craft
from refdesk.app.cli.documents import documents
from refdesk.app.cli.evaluation import evaluation
from refdesk.app.cli.heads import heads
from refdesk.app.cli.ingest import ingest
from refdesk.app.cli.jobs import jobs
from refdesk.app.cli.keys import keys
from refdesk.app.cli.memories import memories, remember
from refdesk.app.cli.output import failing_clearly
from refdesk.app.cli.serve import serve
from refdesk.app.settings import read_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="refdesk")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder of everything kept.")
@click.option("--database", metavar="URL", help="postgresql://… instead of SQLite in the data folder.")
@click.option("--model", metavar="PATH|ID", help="The model that answers: a local path or a hub id.")
@click.pass_context
def main(context: click.Context, data: Path | None, database: str | None, model: str | None) -> None:
    """Refdesk: a reference desk for long private documents.

    Every option can be set as REFDESK_<NAME> in the environment; see docs/configuration.md.
    """
    with failing_clearly():
        context.obj = read_settings(os.environ, data=data, database=database, model=model)


_ASKING = (serve, ingest, ask, remember)
_KEPT = (documents, memories, collections, jobs, keys, evaluation, craft, adapters, heads)

for command in (*_ASKING, *_KEPT):
    main.add_command(command)
