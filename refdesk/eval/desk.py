"""What an evaluation needs of the service: the parts that answer its users, and nothing of its own."""

from typing import TYPE_CHECKING, Protocol

from sqlalchemy import Engine as Database

from refdesk.compressor.options import CompressionOptions
from refdesk.reader.qa import Retrieve
from refdesk.reader.shortening import Shorten
from refdesk.retriever.collections import Collection
from refdesk.retriever.ingest import PassageEmbedder
from refdesk.retriever.store import ChunkStore, Search

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.engine import Engine
    from refdesk.reader.model import ReaderModel
    from refdesk.reader.retrieval_heads import Heads


class Desk(Protocol):
    """Kept by `refdesk.app.build.Desk`, the one place where these parts are made."""

    @property
    def engine(self) -> Database:
        """The database."""

    @property
    def embedder(self) -> PassageEmbedder:
        """What makes documents searchable."""

    @property
    def reader(self) -> "tuple[ReaderModel, Engine]":
        """The model that answers and the engine that runs it."""

    def adapter(self, asked: str | None = None, collection_name: str | None = None) -> "Adapter | None":
        """The adapter of this name, else the collection's, else the service's; None for the model as it is."""

    def heads(self, adapter: "Adapter | None") -> "RetainingHeads | None":
        """The retaining heads for the model with this adapter, if there are any."""

    @property
    def retrieval_heads(self) -> "Heads | None":
        """The model's retrieval heads, if they are known."""

    def shortener(self, options: CompressionOptions) -> Shorten | None:
        """What makes passages shorter before they are read, if that is asked for."""

    def ensure_collection(self, name: str) -> Collection:
        """The collection of this name, made if it is missing."""

    def open_store(self, collection: Collection) -> ChunkStore:
        """The collection's store."""

    def retriever(self, collection_name: str, search: Search) -> Retrieve:
        """Retrieval as the service answers with it."""
