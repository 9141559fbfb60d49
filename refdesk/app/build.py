"""The one file that names concrete classes of all folders: it puts a desk together from settings."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine as Database
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from refdesk.app.adapters import (
    AUTO,
    NONE,
    SHIPPED,
    AdapterEntry,
    adopt_adapter,
    check_name,
    craft_folders,
    delete_adapter,
    get_adapter,
    shipped_adapter,
)
from refdesk.app.compression import PassageCompression, engine_tools
from refdesk.app.craft import Crafting, CraftSettings, start_training
from refdesk.app.evaluation import Evaluation, start_runs
from refdesk.app.heads import LoadedHeads
from refdesk.app.ingestion import Ingestion
from refdesk.app.intake import Intake, Upload, take_in
from refdesk.app.memories import Memories
from refdesk.app.passages import passages_of
from refdesk.app.remembering import MemorySettings, Remembering, start_remembering
from refdesk.app.retrieval_heads import find_retrieval_heads
from refdesk.app.settings import Settings
from refdesk.app.whole_documents import whole_documents
from refdesk.app.worker import Worker
from refdesk.compressor.options import CompressionOptions
from refdesk.craft.card import read_card
from refdesk.craft.errors import AdapterBusy
from refdesk.database import open_database
from refdesk.eval.corpus import is_of_dataset
from refdesk.eval.plan import RunSettings
from refdesk.eval.run import Run
from refdesk.eval.runs import delete_dataset
from refdesk.memory.options import Looking
from refdesk.reader.errors import AdapterNotFound
from refdesk.reader.passage import Passage
from refdesk.reader.qa import QA, Retrieve
from refdesk.reader.shortening import Shorten
from refdesk.retriever.collections import (
    Collection,
    collection_names,
    create_collection,
    delete_collection,
    get_collection,
    set_adapter,
)
from refdesk.retriever.documents import delete_document, get_document
from refdesk.retriever.embedder import Embedder
from refdesk.retriever.errors import UnknownCollection
from refdesk.retriever.index import VectorIndex
from refdesk.retriever.index.flat import FaissIndex
from refdesk.retriever.store import ChunkStore, Search

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.engine import Engine
    from refdesk.reader.model import ReaderModel
    from refdesk.reader.retrieval_heads import Heads
    from refdesk.reader.whole_documents import WholeDocuments

# transformers cannot be imported by two threads at once.
_importing = threading.Lock()


class Desk:
    """Everything that a process needs to take documents in and to answer; parts load when first needed."""

    def __init__(self, settings: Settings, report: Callable[[str], None] = lambda line: None) -> None:
        """Open the data. `report` gets a line whenever something takes long.

        Raises:
            DatabaseUnavailable: see `open_database`.
        """
        settings.data.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.engine: Database = open_database(settings.database_url)
        self.memories = Memories(self.engine, settings.data / "memories")
        self._report = report
        self._loading = threading.RLock()
        self._loading_reader = threading.Lock()  # of its own: documents come in while the model loads
        self._embedder: Embedder | None = None
        self._reader: tuple[ReaderModel, Engine] | None = None
        self._adapters: dict[str, Adapter] = {}
        self._heads = LoadedHeads(settings.data)
        self._stores: dict[str, ChunkStore] = {}
        self._workers: dict[str, Worker] = {}

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded once."""
        with self._loading:
            if self._embedder is None:
                with _importing:
                    self._embedder = Embedder(self.settings.embedder or None)
            return self._embedder

    @property
    def reader(self) -> "tuple[ReaderModel, Engine]":
        """The model and the engine that generates with it, loaded once."""
        with self._loading_reader:
            if self._reader is None:
                with _importing:
                    from refdesk.app.run_files import RunFiles
                    from refdesk.reader.engine import Engine
                    from refdesk.reader.model import load_model

                settings, report = self.settings, self._report
                model = load_model(settings.model or None, settings.data, dtype=settings.dtype, report=report)
                kept = RunFiles(self.memories.folder, model)
                self._reader = (model, Engine(model, memory_bytes=settings.kv_memory_mb * 2**20, kept=kept))
            return self._reader

    @property
    def model_name(self) -> str:
        """The name of the model that answers."""
        return self.reader[0].name

    def start(self, *kinds: str) -> None:
        """Begin to work on jobs, those of an earlier process first; only those of `kinds`, if any are named.

        Each kind has a worker of its own, so that an evaluation of hours holds up no ingestion.
        """
        # Who deletes a collection may be killed before its index is gone.
        FaissIndex.sweep(self.settings.data / "index", lambda: collection_names(self.engine))
        ingestion = Ingestion(self.engine, lambda: self.embedder, self.open_store, self.memories.sweep)
        for work in (ingestion, Evaluation(self), Crafting(self), Remembering(self)):
            if not kinds or work.kind in kinds:
                self._workers[work.kind] = Worker(self.engine, work)
                self._workers[work.kind].start()

    def warm(self) -> None:
        """Load the models now rather than at the first request."""
        self.embedder.embed_query("warm")
        _ = self.reader

    def readiness(self) -> dict[str, str]:
        """Each part's state: "ok", or what is missing."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            database = "ok"
        except SQLAlchemyError:
            database = "does not answer"
        return {
            "database": database,
            "embedder": "ok" if self._embedder is not None else "loading",
            "model": "ok" if self._reader is not None else "loading",
        }

    def adapter(self, asked: str | None = None, collection_name: str | None = None) -> "Adapter | None":
        """The adapter to answer with: the one that is asked for by name, else the collection's, else the
        service's; None for the model as it is. Loaded once.

        Raises:
            AdapterNotFound: there is none of this name, or it is not ready.
            AdapterMismatch: it was trained for another model.
            UnknownCollection: see `get_collection`.
        """
        if asked is None and collection_name is not None:
            asked = get_collection(self.engine, collection_name).adapter
        name = self.settings.adapter if asked is None else asked
        if name == NONE:
            return None
        model, _ = self.reader
        if name == AUTO:
            shipped = shipped_adapter()
            if shipped is None or read_card(shipped / "card.json")["base_fingerprint"] != model.fingerprint:
                return None
            name = SHIPPED
        entry = get_adapter(self.engine, name)
        # By its job: another process may have made it anew under the same name.
        key = entry.job_id or name
        with self._loading_reader:
            if key not in self._adapters:
                self._adapters[key] = self._load_adapter(entry, model)
            return self._adapters[key]

    def _load_adapter(self, entry: AdapterEntry, model: "ReaderModel") -> "Adapter":
        if not entry.ready:
            raise AdapterNotFound(f"adapter {entry.name!r} is not ready; its training is {entry.state}")
        from refdesk.reader.adapter import load_adapter

        folder = shipped_adapter() if entry.job_id is None else self.adapter_folder(entry.name)
        assert folder is not None
        return load_adapter(folder, model, entry.name)

    def heads(self, adapter: "Adapter | None") -> "RetainingHeads | None":
        """The retaining heads that were trained for the model with this adapter, if there are any: the newest of
        the desk's own before the shipped ones. Loaded once.

        Raises:
            HeadsNotFound, HeadsMismatch: they are damaged.
        """
        return self._heads.of(self.reader[0], adapter)

    @property
    def retrieval_heads(self) -> "Heads | None":
        """The model's retrieval heads, if they are known; see `app.retrieval_heads`. Raises HeadsNotFound,
        HeadsMismatch where they are damaged."""
        return find_retrieval_heads(self.settings.data, self.reader[0])

    def shortener(self, options: CompressionOptions) -> Shorten | None:
        """What makes passages shorter as these options have it, if they do."""
        if options.name == "none":
            return None
        return PassageCompression(options, engine_tools(self.reader[0], lambda: self.embedder))

    def adapter_folder(self, name: str) -> Path:
        """Where an adapter of this desk is kept."""
        return self.settings.data / "adapters" / name

    def trainable_model(self, quantize: bool = False) -> "ReaderModel":
        """The model again, apart from the one that answers, loaded to be trained; with `quantize` in four bits."""
        from refdesk.reader.model import load_model

        settings = self.settings
        return load_model(
            settings.model or None, settings.data, dtype=settings.dtype, packed=False, four_bit=quantize
        )

    def sample_passages(self, collection: Collection, count: int, seed: int) -> list[Passage]:
        """At most `count` passages of a collection, drawn by `seed`."""
        return passages_of(self.engine, self.open_store(collection).sample(count, seed))

    def start_training(self, name: str, wanted: CraftSettings) -> AdapterEntry:
        """Queue the training of an adapter; see `app.craft`."""
        entry = start_training(self.engine, name, wanted)
        self._wake(Crafting.kind)
        return entry

    def adopt_adapter(self, name: str, folder: Path) -> AdapterEntry:
        """Take in an adapter that was trained elsewhere for this desk's model, by the folder that training left.

        Raises:
            AdapterNotFound, AdapterMismatch: the folder has none, or not one that the model can run.
            CraftError: for `name` or the card; see `app.adapters`.
        """
        from refdesk.reader.adapter import load_adapter

        check_name(name)  # before anything is loaded
        load_adapter(folder, self.reader[0], name)
        return adopt_adapter(self.engine, name, folder, self.adapter_folder(name))

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter everywhere. Raises AdapterNotFound, AdapterBusy."""
        if name == self.settings.adapter:
            raise AdapterBusy(f"adapter {name!r} is the service's own (REFDESK_ADAPTER); choose another one first")
        folders = [self.adapter_folder(name), *craft_folders(self.settings.data, name)]
        entry = delete_adapter(self.engine, name, folders)
        with self._loading_reader:
            self._adapters.pop(entry.job_id or name, None)

    def set_adapter(self, collection_name: str, adapter: str | None) -> Collection:
        """Answer a collection's questions with another adapter. Raises UnknownCollection, AdapterNotFound."""
        if adapter is not None:
            self._check_adapter(adapter)
        return set_adapter(self.engine, get_collection(self.engine, collection_name), adapter)

    def _check_adapter(self, name: str) -> None:
        if name != NONE and not get_adapter(self.engine, name).ready:
            raise AdapterNotFound(f"adapter {name!r} is not ready")

    def create_collection(
        self, name: str, size: int | None = None, overlap: int | None = None, adapter: str | None = None
    ) -> Collection:
        """Make a collection that the desk's embedder serves; see `retriever.collections`. Raises
        AdapterNotFound."""
        if adapter is not None:
            self._check_adapter(adapter)
        return create_collection(
            self.engine,
            name,
            embedder=self.embedder.name,
            dimension=self.embedder.dimension,
            max_tokens=self.embedder.max_tokens,
            chunk_size=size,
            chunk_overlap=overlap,
            adapter=adapter,
        )

    def open_store(self, collection: Collection) -> ChunkStore:
        """The collection's store. Raises EmbedderMismatch."""
        with self._loading:
            store = self._stores.get(collection.id)
            if store is None:
                store = ChunkStore(self.engine, collection, self.embedder, self._index(collection))
                self._stores[collection.id] = store
            return store

    def take_in(self, collection: Collection, uploads: Sequence[Upload]) -> Intake:
        """Queue files for ingestion; see `app.intake`."""
        self.open_store(collection)  # another embedder's collection is refused here, not in the job
        intake = take_in(self.engine, collection, uploads, max_bytes=self.settings.max_upload_bytes)
        self._wake(Ingestion.kind)
        return intake

    def start_runs(self, wanted: Sequence[RunSettings], dataset_id: str | None = None) -> list[Run]:
        """Queue evaluations; see `app.evaluation`."""
        # A run keeps where its data lie, for whichever process goes on with it.
        for settings in wanted:
            if settings.adapter is not None:
                self._check_adapter(settings.adapter)
        located = [replace(settings, benchmarks=self.settings.benchmarks) for settings in wanted]
        runs = start_runs(self.engine, located, dataset_id)
        self._wake(Evaluation.kind)
        return runs

    def delete_dataset(self, dataset_id: str) -> None:
        """Remove a data set, every run over it, and its documents. Raises UnknownDataset, InvalidRun."""
        delete_dataset(self.engine, dataset_id)
        for name in collection_names(self.engine).values():
            if is_of_dataset(name, dataset_id):
                self.delete_collection(name)

    def qa(self, collection_name: str) -> QA:
        """Question answering over a collection. Raises UnknownCollection, EmbedderMismatch."""
        return QA(self.retriever(collection_name), *self.reader)

    def retriever(self, collection_name: str, search: Search = "hybrid") -> Retrieve:
        """Retrieval over a collection. Raises UnknownCollection, EmbedderMismatch."""
        store = self.open_store(get_collection(self.engine, collection_name))

        def retrieve(question: str, k: int, sources: tuple[str, ...] | None) -> list[Passage]:
            return passages_of(self.engine, store.retrieve(question, k, sources, search=search))

        return retrieve

    def remember(self, collection: Collection, sources: Sequence[str], wanted: MemorySettings) -> str:
        """Queue the reading of documents into memories; returns the job's id. See `app.remembering`."""
        job_id = start_remembering(self, collection, sources, wanted)
        self._wake(Remembering.kind)
        return job_id

    def whole_documents(
        self,
        collection: Collection,
        sources: Sequence[str],
        adapter: "Adapter | None",
        how: Looking | None = None,
        read: bool = True,
    ) -> "WholeDocuments":
        """By id or source id; see `app.whole_documents`. Raises UnknownDocument, MemoryNotFound, InvalidMemory."""
        found = [get_document(self.engine, collection, source) for source in sources]
        documents = list({document.id: document for document in found}.values())
        return whole_documents(self, collection, documents, adapter, how or Looking(), read)

    def delete_document(self, collection: Collection, key: str) -> None:
        """Remove a document everywhere. Raises UnknownDocument."""
        delete_document(self.engine, get_document(self.engine, collection, key))
        self.open_store(collection).refresh(flush=True)
        self.memories.sweep()

    def delete_collection(self, name: str) -> None:
        """Remove a collection everywhere. Raises UnknownCollection."""
        collection = get_collection(self.engine, name)
        with self._loading:
            self._stores.pop(collection.id, None)
            delete_collection(self.engine, collection)
            self._index(collection).drop()
        self.memories.sweep()

    def ensure_collection(self, name: str) -> Collection:
        """The collection of this name, made if it is missing."""
        try:
            return get_collection(self.engine, name)
        except UnknownCollection:
            return self.create_collection(name)

    def close(self) -> None:
        """Stop at the next commit; what is left undone is gone on with at the next start."""
        for worker in self._workers.values():
            worker.close()
        if self._reader is not None:
            self._reader[1].close()
        self.engine.dispose()

    def _wake(self, kind: str) -> None:
        if kind in self._workers:
            self._workers[kind].wake()

    def _index(self, collection: Collection) -> VectorIndex:
        postgres = self.engine.dialect.name == "postgresql"
        if self.settings.index == "pgvector" or (self.settings.index == "auto" and postgres):
            from refdesk.retriever.index.pgvector import PgvectorIndex  # an extra brings its driver

            return PgvectorIndex(self.engine, f"index_{collection.id}", collection.dimension)
        return FaissIndex(self.settings.data / "index" / f"{collection.id}.faiss", collection.dimension)
