"""What goes over the wire about memories of documents."""

from collections.abc import Collection
from typing import Any

import msgspec

from refdesk.app.memories import MemoryEntry, Of
from refdesk.app.remembering import MemorySettings


class MemoryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Documents to read into memories, and how; what is left out has the default of docs/whole_documents.md. `of`:
    each `document` as a whole, or its `passages`, to which the options behind `adapter` do not apply."""

    documents: list[str] | None = None
    of: Of = "document"
    adapter: str | None = None
    rate: float | None = None
    keep: str | None = None
    near: int | None = None
    layers: list[int] | None = None
    window: int | None = None
    overlap: int | None = None

    @property
    def settings(self) -> MemorySettings:
        """What the job is to do."""
        names = ("rate", "keep", "near", "layers", "window", "overlap")
        options = {name: getattr(self, name) for name in names}
        given = {name: one for name, one in options.items() if one is not None}
        return MemorySettings(self.adapter, given, self.of)


class DocumentMemoryMessage(msgspec.Struct):
    """The memory of a document (its source id), or of its passages: of so many tokens, bytes on disk, and one in
    `rate` entries. `reader`: a fingerprint of the model and adapter that made it; `fits`: whether they answer
    now."""

    document: str
    of: Of
    tokens: int
    bytes: int
    rate: float
    options: dict[str, Any]
    adapter: str
    reader: str
    fits: bool


class DocumentMemoriesMessage(msgspec.Struct):
    """The memories of a collection."""

    items: list[DocumentMemoryMessage]


def document_memory_message(entry: MemoryEntry, readers: Collection[str]) -> DocumentMemoryMessage:
    """A memory for the wire; `readers`: fingerprints of who answers now."""
    return DocumentMemoryMessage(
        document=entry.source_id,
        of=entry.card.of,
        tokens=entry.card.tokens,
        bytes=entry.bytes,
        rate=entry.card.options.get("rate", 1.0),
        options=entry.card.options,
        adapter=entry.card.adapter,
        reader=entry.reader,
        fits=entry.reader in readers,
    )
