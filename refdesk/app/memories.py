"""Memories of documents and of their passages, beside the collections: `<collection id>/<version id>/<reader>`.

A version of a document never changes, and its id is given once; so a memory that is found is of the text that is
searchable, and by the reader it is asked for. While it is made its folder bears the id of its job.
"""

import os
import shutil
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from refdesk import schema
from refdesk.memory.errors import InvalidMemory
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import Document

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.memory.document_memory import DocumentMemory

log = structlog.get_logger()

_MAPPED = 64  # memories at a time; each holds two files open, or three

KIND = "memory"
"""Of the jobs that make them."""

Of = Literal["document", "passages"]
"""What a memory holds: one text far longer than the window, or the runs of each of its passages."""

STARTS = "starts.npy"

_CARD = "card.json"


class MemoryNotFound(Exception):
    """There is no memory of a document for this model and adapter; the message says of which, and what to do."""


@dataclass(frozen=True)
class MemoryCard:
    """What a memory was made with: `options` of `reader.remember.RememberOptions` (none `of` passages, and no
    `keep` where everything is held), the name of the `adapter` (or `none`), the fingerprint of the `heads` that
    thinned it, if any did. `tokens`: of the document, or of its passages, which overlap."""

    tokens: int
    options: dict[str, Any]
    adapter: str
    heads: str = ""
    of: Of = "document"


@dataclass(frozen=True)
class MemoryEntry:
    """The memory of a version of a document, taking so many `bytes` on disk. `reader`: fingerprint of who may
    attend to it, see `reader.remember.reader_of` and `reader.prepare.runs_reader`."""

    document_id: str
    source_id: str
    reader: str
    bytes: int
    card: MemoryCard


@dataclass(frozen=True)
class OpenMemory:
    """A memory, mapped; `starts`: where its tokens begin in the text. `written`: to tell it from a later one."""

    memory: "DocumentMemory"
    starts: NDArray[np.int32]
    card: MemoryCard
    written: tuple[int, int]


class Memories:
    """Those of all collections of a desk, below `folder`, whose time of change is that of any of them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self.folder = folder
        self._open: dict[Path, OpenMemory] = {}
        self._opening = threading.Lock()

    def open(self, document: Document, reader: str) -> OpenMemory | None:
        """The memory of a document that `reader` may attend to, if there is one; mapped once, and again only where
        it was made anew, or many others were asked for since."""
        from refdesk.memory.document_memory import DocumentMemory

        folder = self.place_of(document, reader)
        with self._opening:
            # What is gone is held no longer: its bytes are free when nobody maps it.
            self._open = {path: one for path, one in self._open.items() if one.written == written_at(path)}
            written = written_at(folder)
            if written is not None and folder not in self._open:
                try:
                    card, starts = _read_card(folder), np.load(folder / STARTS)
                    self._open[folder] = OpenMemory(DocumentMemory.load(folder), starts, card, written)
                except (InvalidMemory, OSError, ValueError, EOFError) as error:
                    log.warning("memory_unreadable", folder=str(folder), reason=str(error))
            found = self._open.pop(folder, None)
            if found is not None:
                self._open[folder] = found  # behind those that were asked for before
            while len(self._open) > _MAPPED:
                del self._open[next(iter(self._open))]
            return found

    def place_of(self, document: Document, reader: str) -> Path:
        """Where the memory of a document by `reader` is, if there is one."""
        return self._of(document) / reader

    def card(self, document: Document, reader: str) -> MemoryCard | None:
        """What it was made with; None where there is none."""
        with suppress(OSError, ValueError):
            return _read_card(self.place_of(document, reader))
        return None

    def list(self, collection: Collection) -> list[MemoryEntry]:
        """Those of a collection's searchable documents, by source id."""
        found = [folder for folder in self.folder.glob(f"{collection.id}/*/*") if folder.suffix != ".part"]
        document = schema.document.c
        searchable = select(document.id, document.source_id).where(
            document.collection_id == collection.id, document.ready
        )
        with self._engine.connect() as connection:
            names = {row.id: row.source_id for row in connection.execute(searchable)} if found else {}
        entries = []
        for folder in found:
            version = folder.parent.name
            with suppress(OSError, ValueError):  # dropped in this moment, or damaged
                taken = sum(file.stat().st_size for file in folder.iterdir())
                if version in names:
                    card = _read_card(folder)
                    entries.append(MemoryEntry(version, names[version], folder.name, taken, card))
        return sorted(entries, key=lambda entry: (entry.source_id, entry.reader))

    def begin(self, document: Document, reader: str, job_id: str, card: MemoryCard) -> Path:
        """A folder to make a memory in, as a job left it when it was stopped, or empty."""
        part = self._of(document) / f"{reader}.{job_id}.part"
        with suppress(OSError, ValueError):
            if _read_card(part) == card:
                return part
        self.discard(part)
        part.mkdir(parents=True)
        (part / _CARD).write_bytes(msgspec.json.encode(card))
        return part

    def place(self, part: Path) -> None:
        """What was made in `part` is whole: from now on it is found, in place of an earlier one."""
        for file in part.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        folder = part.with_name(part.name.split(".")[0])
        earlier = _aside(folder)  # removing it takes as long as it is large, and questions go on
        part.rename(folder)
        self._note_change()
        shutil.rmtree(earlier, ignore_errors=True)

    def drop(self, document: Document) -> None:
        """Remove the memories of a document, whoever made them. Raises MemoryNotFound."""
        found = [folder for folder in self._of(document).glob("*") if folder.suffix != ".part"]
        if not found:
            raise MemoryNotFound(f"document {document.source_id!r} has no memory")
        for folder in found:
            self.discard(folder)

    def discard(self, folder: Path) -> None:
        """Remove one, or what was begun of it; nothing happens when it is gone already."""
        going = _aside(folder)
        if going.exists():
            self._note_change()
            shutil.rmtree(going, ignore_errors=True)

    def sweep(self) -> None:
        """Remove those of versions that are not searchable (any more), and what jobs began that go on no more.
        That is asked after they are listed, so that what is begun meanwhile stays."""
        collections = list(self.folder.glob("*/"))
        versions, parts = list(self.folder.glob("*/*/")), list(self.folder.glob("*/*/*.part/"))
        if not collections:
            return
        document, job = schema.document.c, schema.job.c
        searchable = select(document.id).where(
            document.collection_id.in_([folder.name for folder in collections]), document.ready
        )
        unfinished = select(job.id).where(job.kind == KIND, job.state.in_(("queued", "running")))
        with self._engine.connect() as connection:
            kept = set(connection.execute(select(schema.collection.c.id)).scalars())
            kept |= set(connection.execute(searchable).scalars())
            going_on = set(connection.execute(unfinished).scalars())
        for folder in (*versions, *collections):
            if folder.name not in kept:
                self.discard(folder)
        for part in parts:
            if part.name.split(".")[1] not in going_on:
                self.discard(part)

    def _of(self, document: Document) -> Path:
        return self.folder / document.collection_id / document.id

    def _note_change(self) -> None:
        """Whoever knows which memories there are is to look again."""
        now = time.time_ns()
        os.utime(self.folder, ns=(now, now))


def _aside(folder: Path) -> Path:
    """Where a folder goes to be removed, if it is there: at once, so that a kill leaves nothing that is found,
    and all to be swept."""
    going = folder.with_name(f"{folder.name.split('.')[0]}.{uuid.uuid4().hex}.part")  # of no job
    with suppress(FileNotFoundError):
        folder.rename(going)
    return going


def written_at(folder: Path) -> tuple[int, int] | None:
    """Differs whenever a memory is made anew; None where there is none."""
    with suppress(OSError):
        found = (folder / _CARD).stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _read_card(folder: Path) -> MemoryCard:
    """Raises OSError, ValueError."""
    return msgspec.json.decode((folder / _CARD).read_bytes(), type=MemoryCard)
