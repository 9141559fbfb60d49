"""`refdesk ingest`: files and folders in, with a progress bar."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from refdesk.app.build import Desk
from refdesk.app.cli.job_progress import tell, watch
from refdesk.app.cli.output import as_json, in_collection, notes, open_desk, print_json
from refdesk.app.intake import Upload
from refdesk.app.jobs import Job
from refdesk.app.rest.messages import job_message
from refdesk.app.settings import Settings
from refdesk.retriever.collections import Collection
from refdesk.retriever.errors import InvalidUpload, RetrieverError
from refdesk.retriever.parse import SUFFIXES
from refdesk.retriever.parse.document import storable

# Files parsed at a time: a folder larger than memory is no trouble.
_BATCH_BYTES = 64 * 2**20
_BATCH_FILES = 500


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@in_collection
@as_json
@click.pass_obj
def ingest(settings: Settings, paths: tuple[Path, ...], collection: str, as_json: bool) -> None:
    """Take in files, and folders with all files in them of a known format.

    A file's name (in a folder: its path from there) is its source id: the same content again does no
    work, new content replaces the old. Exit code 1 if any file could not be taken in.
    """
    jobs: list[Job] = []
    refused: list[tuple[str, str]] = []

    def refuse(source_id: str, reason: str) -> None:
        refused.append((source_id, reason))
        notes.print(f"{source_id}: {reason}", style="red", markup=False)

    with open_desk(settings) as desk:
        target = desk.ensure_collection(collection)
        desk.start("ingest")
        for batch in _batches(_files(paths), refuse):
            job, reasons = _ingest(desk, target, batch)
            for source_id, reason in reasons:
                refuse(source_id, reason)
            if job is not None:
                jobs.append(job)
                if not as_json:
                    tell(job)
    if as_json:
        rejected = [{"source_id": source_id, "detail": reason} for source_id, reason in refused]
        print_json({"jobs": [job_message(job) for job in jobs], "rejected": rejected})
    sys.exit(1 if refused or any(job.state != "succeeded" for job in jobs) else 0)


def _ingest(desk: Desk, collection: Collection, batch: list[Upload]) -> tuple[Job | None, list[tuple[str, str]]]:
    try:
        intake = desk.take_in(collection, batch)
    except RetrieverError as error:
        causes = error.rejected if isinstance(error, InvalidUpload) and error.rejected else [("", error)]
        return None, [(source_id or storable(batch[0].source_id), str(cause)) for source_id, cause in causes]
    job = watch(desk, intake.job_id)
    return job, [(source_id, str(error)) for source_id, error in intake.rejected]


def _files(paths: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and file.suffix.lower() in SUFFIXES:
                    yield file.relative_to(path).as_posix(), file
        else:
            yield path.name, path


def _batches(files: Iterator[tuple[str, Path]], refuse: Callable[[str, str], None]) -> Iterator[list[Upload]]:
    batch: list[Upload] = []
    names: set[str] = set()
    size = 0
    for source_id, path in files:
        if source_id in names:
            raise InvalidUpload(f"{path}: another file has the source id {source_id!r}; ingest them apart")
        names.add(source_id)
        try:
            batch.append(Upload(source_id, path.read_bytes()))
        except OSError as error:
            refuse(storable(source_id), f"the file cannot be read ({error.strerror})")
            continue
        size += len(batch[-1].content)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
    elif not names:
        raise InvalidUpload(f"no file to take in; known formats: {', '.join(sorted(SUFFIXES))}")
