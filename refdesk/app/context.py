"""What an answer stands on: passages that are retrieved or that attention finds, or whole documents themselves."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, get_args

from refdesk.app.build import Desk
from refdesk.app.memories import MemoryNotFound
from refdesk.app.whole_documents import not_remembered, reader_fingerprint
from refdesk.compressor.options import CompressionOptions
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import MOST_ENTRIES, Looking, Places
from refdesk.reader.errors import InvalidOption
from refdesk.reader.qa import AnswerOptions
from refdesk.retriever.collections import Collection, get_collection
from refdesk.retriever.documents import get_document

AskedContext = Literal["passages", "document", "attended", "auto"]

_OVER_WHOLE = ("document", "attended")
_MOST = 8  # documents that are attended to side by side
_MOST_FOUND = 2  # of them, where none are named


@dataclass(frozen=True)
class AnswerContext:
    """`asked`: the `passages` that are retrieved; those that the question attends to in whole documents
    (`document`); these themselves, `attended` to by question and answer; or `auto`. `entries`: how many far
    entries of documents a row attends to in each layer and KV head; None for 64. `places`: where they stand for
    it; None for `clipped`.

    `auto` is `document` for an answer over named documents whose chunks are more than `k`, if each has a memory
    and the answer is not a long one: there retrieved passages were better (docs/results.md).

    Raises:
        InvalidOption: a value out of range, or one that would have no effect.
    """

    asked: AskedContext = "passages"
    entries: int | None = None
    places: Places | None = None

    def __post_init__(self) -> None:
        if self.asked not in get_args(AskedContext):
            raise InvalidOption("context", self.asked, f"one of {', '.join(get_args(AskedContext))}")
        for option, value in (("entries", self.entries), ("places", self.places)):
            if value is not None and self.asked == "passages":
                raise InvalidOption(option, value, "nothing, for context is 'passages'")
        if self.places not in (None, *get_args(Places)):
            raise InvalidOption("places", self.places, f"one of {', '.join(get_args(Places))}")
        if self.entries is not None and not 1 <= self.entries <= MOST_ENTRIES:
            raise InvalidOption("entries", self.entries, f"1 to {MOST_ENTRIES}")

    def check(self, options: AnswerOptions, compression: CompressionOptions) -> None:
        """Raise InvalidOption for what is asked besides and cannot be had, or would have no effect."""
        named = set(options.documents or ())
        if self.asked in _OVER_WHOLE and len(named) > _MOST:
            raise InvalidOption("documents", len(named), f"1 to {_MOST} of them with context {self.asked!r}")
        if self.asked != "attended":
            return
        shortened = {"compression strategy": compression.name} if compression.name != "none" else {}
        for option, value in (shortened | options.of_passages_alone).items():
            raise InvalidOption(option, value, "nothing, for context is 'attended', which reads no passages")

    def chosen(self, desk: Desk, collection_name: str, question: str, options: AnswerOptions) -> AnswerOptions:
        """The options with whole documents, where the question is to be answered over such.

        Raises:
            UnknownCollection, UnknownDocument: there is none of this name.
            MemoryNotFound: a document that is named, or all that were found, have no memory.
            InvalidMemory: memories that cannot be attended to together, or not where `places` has them.
        """
        if self.asked == "passages":
            return options
        collection = get_collection(desk.engine, collection_name)
        asked = {"entries": self.entries, "places": self.places}
        how = Looking(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
        if self.asked == "auto":
            if not _wants_whole(desk, collection, options):
                return options
            with suppress(MemoryNotFound, InvalidMemory):
                whole = desk.whole_documents(collection, options.documents or (), options.adapter, how)
                return replace(options, whole=whole)
            return options
        sources = options.documents or _found(desk, collection, question, options)
        if not sources:  # nothing is found either where it is retrieved
            return options
        read = self.asked == "document"
        return replace(options, whole=desk.whole_documents(collection, sources, options.adapter, how, read=read))


def _wants_whole(desk: Desk, collection: Collection, options: AnswerOptions) -> bool:
    """By `auto`."""
    named = set(options.documents or ())
    if options.form == "long" or not 1 <= len(named) <= _MOST:
        return False
    found = [get_document(desk.engine, collection, source) for source in named]
    chunks = {document.id: document.num_chunks for document in found}
    return sum(chunks.values()) > options.k


def _found(desk: Desk, collection: Collection, question: str, options: AnswerOptions) -> Sequence[str]:
    """Documents with a memory that hold the best passages. Raises MemoryNotFound where none of them has one."""
    passages = desk.retriever(collection.name)(question, options.k, None)
    sources = list(dict.fromkeys(passage.document_id for passage in passages))
    reader = reader_fingerprint(desk.reader[0], options.adapter)
    documents = [get_document(desk.engine, collection, source) for source in sources]
    opened = [(one.source_id, desk.memories.open(one, reader)) for one in documents]
    held = [(source, one.memory.plan.retrieving) for source, one in opened if one is not None]
    if sources and not held:
        raise not_remembered(desk, collection, sources, options.adapter)
    # Only memories of the same layers can be attended to together.
    return [source for source, layers in held if layers == held[0][1]][:_MOST_FOUND]
