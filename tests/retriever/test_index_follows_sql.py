"""The index follows SQL whatever happens to it, to the database, and beside it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, select

from refdesk import schema
from refdesk.database import open_database
from refdesk.retriever.collections import (
    Collection,
    create_collection,
    get_collection,
)
from refdesk.retriever.documents import (
    list_documents,
)
from refdesk.retriever.index import VectorIndex
from refdesk.retriever.index.flat import FaissIndex
from refdesk.retriever.ingest import from_bytes
from refdesk.retriever.store import ChunkStore
from tests.conftest import WordEmbedder
from tests.retriever.versions import LONG, put

OpenIndex = Callable[[Collection], VectorIndex]
Beside = tuple[VectorIndex, ChunkStore, ChunkStore]


@pytest.mark.parametrize("fault", ["lost", "stale", "foreign"])
def test_an_index_that_differs_from_sql_is_made_equal(
    engine: Engine,
    collection: Collection,
    word_embedder: WordEmbedder,
    open_index: OpenIndex,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(engine, collection, word_embedder, "a.txt", LONG)
    index = open_index(collection)
    ChunkStore(engine, collection, word_embedder, index).refresh(flush=True)
    ids = index.ids()
    if fault == "lost":
        index.drop()
    elif fault == "stale":
        index.remove(ids[::2])
        index.flush()
    else:
        index.add(np.asarray([999_999]), np.eye(1, word_embedder.dimension, dtype=np.float32))
        index.flush()
    healed = open_index(collection)
    store = ChunkStore(engine, collection, word_embedder, healed)
    # Rebuilding is from SQL alone: an embedder that is asked for anything fails the test.
    monkeypatch.setattr(WordEmbedder, "embed_documents", None)
    monkeypatch.setattr(WordEmbedder, "embed_query", None)
    store.refresh()
    assert healed.ids().tolist() == ids.tolist()
    with engine.connect() as connection:
        rows = connection.execute(select(schema.chunk.c.id, schema.chunk.c.embedding)).all()
    vectors = from_bytes([row.embedding for row in rows])
    scores, found = healed.search(vectors, 1)
    assert found[:, 0].tolist() == [row.id for row in rows]
    assert np.allclose(scores, 1, atol=5e-3)


@pytest.fixture
def beside(engine: Engine, collection: Collection, word_embedder: WordEmbedder, open_index: OpenIndex) -> Beside:
    """An index, the store that has it, and that of another process."""
    index = open_index(collection)
    here, there = (ChunkStore(engine, collection, word_embedder, one) for one in (index, open_index(collection)))
    return index, here, there


def test_a_store_sees_what_another_process_stored(
    engine: Engine, collection: Collection, word_embedder: WordEmbedder, beside: Beside
) -> None:
    _, here, there = beside
    assert here.retrieve("topic1", 3) == []
    put(engine, collection, word_embedder, "a.txt", LONG)
    there.refresh(flush=True)
    assert len(here.retrieve("topic1", 3)) == 3


def test_what_another_process_adds_while_a_store_looks_stays_in_the_index(
    engine: Engine,
    collection: Collection,
    word_embedder: WordEmbedder,
    beside: Beside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, here, there = beside
    look = index.ids

    def add_and_look() -> np.ndarray:
        if not list_documents(engine, collection, limit=1):
            put(engine, collection, word_embedder, "a.txt", "Added meanwhile.")
            there.refresh()
        return look()

    monkeypatch.setattr(index, "ids", add_and_look)
    here.refresh()
    assert [hit.source_id for hit in there.retrieve("meanwhile", 1, search="dense")] == ["a.txt"]


def test_what_another_process_deletes_while_a_store_adds_it_leaves_the_index(
    engine: Engine,
    collection: Collection,
    word_embedder: WordEmbedder,
    beside: Beside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(engine, collection, word_embedder, "a.txt", "Deleted meanwhile.")
    index, here, there = beside
    add = index.add

    def delete_and_add(ids: np.ndarray, vectors: np.ndarray) -> None:
        there.delete(["a.txt"])
        add(ids, vectors)

    monkeypatch.setattr(index, "add", delete_and_add)
    here.refresh()
    assert index.ids().tolist() == []


def test_what_comes_in_after_a_backup_is_restored_is_found_by_its_own_vectors(
    tmp_path: Path, word_embedder: WordEmbedder
) -> None:
    file, kept = tmp_path / "refdesk.db", tmp_path / "backup.db"

    def open_store() -> tuple[Engine, ChunkStore]:
        engine = open_database(f"sqlite:///{file}")
        collection = get_collection(engine, "papers")
        index = FaissIndex(tmp_path / "papers.faiss", collection.dimension)
        return engine, ChunkStore(engine, collection, word_embedder, index)

    engine = open_database(f"sqlite:///{file}")
    create_collection(engine, "papers", embedder="words", dimension=32, max_tokens=254)
    engine.dispose()
    shutil.copy(file, kept)
    engine, store = open_store()
    store.add_texts(["What the backup does not know."], ids=["lost"])
    engine.dispose()
    shutil.copy(kept, file)
    engine, store = open_store()
    store.add_texts(["What came in afterwards."], ids=["new"])
    (hit,) = store.retrieve("What came in afterwards.", 1, search="dense")
    engine.dispose()
    assert (hit.source_id, hit.score) == ("new", pytest.approx(1, abs=5e-3))
