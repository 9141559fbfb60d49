"""What goes over the wire about memories of documents."""

from typing import Any

import msgspec

from refdesk.app.memories import MemoryEntry
from refdesk.app.remembering import MemorySettings


class MemoryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Documents to read into memories, and how; what is left out has the default of docs/whole_documents.md."""

    documents: list[str] | None = None
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
        return MemorySettings(self.adapter, {name: one for name, one in options.items() if one is not None})


class DocumentMemoryMessage(msgspec.Struct):
    """The memory of a document (its source id): of so many tokens, bytes on disk, and one in `rate` entries.
    `reader`: a fingerprint of the model and adapter that made it; `fits`: whether they answer now."""

    document: str
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


def document_memory_message(entry: MemoryEntry, reader: str) -> DocumentMemoryMessage:
    """A memory for the wire; `reader`: who answers now."""
    return DocumentMemoryMessage(
        document=entry.source_id,
        tokens=entry.card.tokens,
        bytes=entry.bytes,
        rate=entry.card.options["rate"],
        options=entry.card.options,
        adapter=entry.card.adapter,
        reader=entry.reader,
        fits=entry.reader == reader,
    )
