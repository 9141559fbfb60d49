"""How a memory job reads a document: as one text (`Whole`), or each of its passages by itself (`Apart`)."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from refdesk.app.memories import STARTS, Memories, MemoryCard
from refdesk.app.passages import passages_of
from refdesk.eval import desk as evaluation
from refdesk.memory.errors import InvalidMemory
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import Document, document_text

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.memory.document_memory import MemoryPlan
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.prepare import PassageRuns
    from refdesk.reader.remember import RememberOptions
    from refdesk.reader.thinning import Thinning
    from refdesk.reader.whole_documents import EncodedDocument


class Desk(evaluation.Desk, Protocol):
    """What remembering needs of the service."""

    memories: Memories


class DocumentReading(Protocol):
    """A document about to be read. `tokens`: of what is read. `reader`: fingerprint of who may use what comes of
    it. `card`: what it is made with."""

    @property
    def tokens(self) -> int: ...

    @property
    def reader(self) -> str: ...

    @property
    def card(self) -> MemoryCard: ...

    def is_made(self) -> bool:
        """Whether it was read so already, and all that was made of it is there."""

    def read(self, folder: Path, progress: Callable[[int], None]) -> None:
        """Read it into `folder`, or go on with that. `progress` gets the tokens that are done, and may raise.

        Raises:
            InvalidMemory: there is no room for it on the disk.
            ReaderError: what `Engine.submit` raises.
        """


class Way(Protocol):
    """One of the two ways to read all documents of a job."""

    def check(self) -> None:
        """Raise InvalidOption or InvalidMemory for what the model cannot be read with."""

    def of(self, document: Document) -> DocumentReading:
        """Raises UnknownDocument where it has gone since."""


@dataclass(frozen=True)
class Whole:
    """As one text, by `options`, and by `thinning` if they have a rate; `keep` is chosen then, not `auto`."""

    desk: Desk
    adapter: "Adapter | None"
    heads: "RetainingHeads | None"
    options: "RememberOptions"
    thinning: "Thinning"

    def check(self) -> None:
        """See Way."""
        from refdesk.reader.remember import chunks_of
        from refdesk.reader.whole_documents import document_front

        model, _ = self.desk.reader
        self.plan((0,))
        chunks_of(model, 1, document_front(model), self.options, self.thinning)

    def of(self, document: Document) -> "_WholeDocument":
        """See Way."""
        from refdesk.reader.whole_documents import encode_document

        text = document_text(self.desk.engine, document.id)
        return _WholeDocument(self, document, encode_document(document.title, text, self.desk.reader[0]))

    def plan(self, tokens: tuple[int, ...]) -> "MemoryPlan":
        """What a memory of `tokens` will be. Raises InvalidMemory, InvalidOption."""
        from refdesk.reader.remember import plan_of
        from refdesk.reader.whole_documents import document_front

        model, _ = self.desk.reader
        return plan_of(model, tokens, document_front(model), self.options, self.adapter)


@dataclass(frozen=True)
class _WholeDocument:
    """See DocumentReading."""

    way: Whole
    document: Document
    encoded: "EncodedDocument"

    @property
    def tokens(self) -> int:
        return len(self.encoded.tokens)

    @cached_property
    def _plan(self) -> "MemoryPlan":
        return self.way.plan(self.encoded.tokens)

    @property
    def reader(self) -> str:
        return self._plan.reader

    @property
    def card(self) -> MemoryCard:
        way = self.way
        options = asdict(way.options) | {"layers": list(self._plan.retrieving)}
        if way.options.rate == 1:
            del options["keep"]  # nothing is chosen
        return MemoryCard(self.tokens, options, _name(way.adapter), way.heads.fingerprint if way.heads else "")

    def is_made(self) -> bool:
        made = self.way.desk.memories.open(self.document, self.reader)
        return made is not None and made.card == self.card

    def read(self, folder: Path, progress: Callable[[int], None]) -> None:
        from refdesk.memory.document_memory import DocumentMemory
        from refdesk.reader.remember import remember
        from refdesk.reader.whole_documents import document_front

        np.save(folder / STARTS, self.encoded.starts)
        with suppress(InvalidMemory):
            DocumentMemory.load(folder)
            return  # stopped between the last two steps
        model, engine = self.way.desk.reader
        remember(
            engine.submit,
            model,
            self.encoded.tokens,
            document_front(model),
            self.way.options,
            adapter=self.way.adapter,
            heads=self.way.heads,
            folder=folder,
            progress=progress,
        )


@dataclass(frozen=True)
class Apart:
    """Each passage that a search may find by itself, as answers to `reading: apart` read it; held whole."""

    desk: Desk
    collection: Collection
    adapter: "Adapter | None"

    def check(self) -> None:
        """See Way. Raises EmbedderMismatch for a collection of another embedder."""
        self.desk.open_store(self.collection)

    def of(self, document: Document) -> "_Passages":
        """See Way."""
        from refdesk.reader.prepare import PassageRuns

        chunks = self.desk.open_store(self.collection).chunks(document.id)
        passages = passages_of(self.desk.engine, chunks)
        return _Passages(self, document, PassageRuns.of(passages, self.desk.reader[0], self.adapter))


@dataclass(frozen=True)
class _Passages:
    """See DocumentReading."""

    way: Apart
    document: Document
    runs: "PassageRuns"

    @property
    def tokens(self) -> int:
        return self.runs.tokens

    @property
    def reader(self) -> str:
        from refdesk.reader.prepare import runs_reader

        return runs_reader(self.runs.model, self.runs.adapter)

    @property
    def card(self) -> MemoryCard:
        return MemoryCard(self.tokens, {}, _name(self.way.adapter), of="passages")

    def is_made(self) -> bool:
        memories = self.way.desk.memories
        folder = memories.place_of(self.document, self.reader)
        return memories.card(self.document, self.reader) == self.card and self.runs.are_in(folder)

    def read(self, folder: Path, progress: Callable[[int], None]) -> None:
        self.runs.prepare(self.way.desk.reader[1].submit, folder, progress)


def _name(adapter: "Adapter | None") -> str:
    return "none" if adapter is None else adapter.name


def memory_readers(desk: Desk, adapter: "Adapter | None") -> frozenset[str]:
    """The fingerprints of who can use memories where this adapter answers, of either kind."""
    from refdesk.reader.prepare import runs_reader
    from refdesk.reader.remember import reader_of
    from refdesk.reader.whole_documents import document_front

    model, _ = desk.reader
    return frozenset({reader_of(model, adapter, document_front(model)), runs_reader(model, adapter)})
