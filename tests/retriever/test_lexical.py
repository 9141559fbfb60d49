"""Full-text search: what is searchable in a collection, and nothing else, decides how its chunks rank."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from refdesk.database import open_database, transaction
from refdesk.retriever.collections import Collection, create_collection, delete_collection
from refdesk.retriever.documents import delete_document, discard, get_document
from refdesk.retriever.errors import UnknownCollection
from refdesk.retriever.ingest import ingest
from refdesk.retriever.lexical import lexical_search
from refdesk.retriever.store import ChunkStore
from tests.conftest import WordEmbedder
from tests.retriever.versions import pend

# "harbour" is the rarer word of the two, so a chunk that has it ranks first.
PAPERS = {
    "a.txt": "The harbour opens late on most of the days.",
    "b.txt": "The lantern is lit early on most of the days.",
    "c.txt": "Another lantern, which nobody in the whole town has ever lit, hangs over the old western gate.",
    **{f"{i}.txt": f"Page {i} tells of nothing that anybody asks for." for i in range(20)},
}
QUESTION = "harbour lantern"


class Killed(Exception):
    pass


def kill(stage: str, share: float) -> None:
    if share > 0:
        raise Killed


@pytest.fixture
def other(engine: Engine, collection: Collection) -> Collection:
    """An empty collection beside the first."""
    return create_collection(
        engine,
        "letters",
        embedder=collection.embedder,
        dimension=collection.dimension,
        max_tokens=254,
        chunk_size=collection.chunk_size,
    )


def put(engine: Engine, collection: Collection, embedder: WordEmbedder, source_id: str, content: str) -> None:
    ingest(engine, embedder, collection, pend(engine, collection, source_id, content))


def statistics(connection: Connection, table: str) -> tuple[object, ...]:
    """All that FTS5's bm25() computes with: where each word stands, and how long each row is."""
    connection.execute(text(f"CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', '{table}', 'instance')"))
    words = connection.execute(text('SELECT term, doc, col, "offset" FROM words ORDER BY 1, 2, 3, 4')).all()
    connection.execute(text("DROP TABLE temp.words"))
    sizes = connection.execute(text(f"SELECT id, sz FROM {table}_docsize ORDER BY id")).all()
    totals = connection.execute(text(f"SELECT block FROM {table}_data WHERE id = 1")).all()
    return words, sizes, totals


def assert_only_what_is_searchable_counts(engine: Engine, collection: Collection) -> None:
    if engine.dialect.name != "sqlite":
        return  # a rank of PostgreSQL has no statistics in it
    with transaction(engine) as connection:
        index = f"chunk_fts_{collection.id}"
        kept = statistics(connection, index)
        connection.execute(text(f"INSERT INTO {index} ({index}) VALUES ('integrity-check')"))
        connection.execute(
            text("CREATE VIRTUAL TABLE fresh USING fts5(heading, text, content='', tokenize='porter unicode61')")
        )
        connection.execute(
            text(
                "INSERT INTO fresh (rowid, heading, text) SELECT chunk.id, heading, chunk.text"
                " FROM chunk JOIN document ON document.id = document_id"
                " WHERE collection_id = :collection AND ready"
            ),
            {"collection": collection.id},
        )
        assert kept == statistics(connection, "fresh")
        connection.execute(text("DROP TABLE fresh"))


def test_what_other_collections_hold_does_not_change_the_ranks(
    engine: Engine,
    collection: Collection,
    other: Collection,
    store: ChunkStore,
    word_embedder: WordEmbedder,
) -> None:
    def ranks() -> list[str]:
        assert_only_what_is_searchable_counts(engine, collection)
        return [hit.source_id for hit in store.retrieve(QUESTION, 10, search="lexical")]

    for source_id, content in PAPERS.items():
        put(engine, collection, word_embedder, source_id, content)
    alone = ranks()
    assert alone == ["a.txt", "b.txt", "c.txt"]
    for i in range(30):
        put(engine, other, word_embedder, f"{i}.txt", f"Harbour of letter {i}. " + "Harbour after harbour. " * i)
    assert ranks() == alone
    assert_only_what_is_searchable_counts(engine, other)
    put(engine, other, word_embedder, "0.txt", "The lantern again.")
    delete_document(engine, get_document(engine, other, "1.txt"))
    assert ranks() == alone
    assert_only_what_is_searchable_counts(engine, other)
    put(engine, collection, word_embedder, "a.txt", "Nothing for now.")
    assert ranks() == ["b.txt", "c.txt"]
    put(engine, collection, word_embedder, "a.txt", PAPERS["a.txt"])
    assert ranks() == alone
    delete_collection(engine, other)
    assert ranks() == alone


def test_a_version_on_its_way_does_not_change_the_ranks(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    for source_id, content in PAPERS.items():
        put(engine, collection, word_embedder, source_id, content)
    before = store.retrieve(QUESTION, 10, search="lexical")
    pending = pend(engine, collection, "new.txt", "A harbour, a harbour and again a harbour. " * 30)
    with pytest.raises(Killed):
        ingest(engine, word_embedder, collection, pending, kill)
    assert store.retrieve(QUESTION, 10, search="lexical") == before
    assert_only_what_is_searchable_counts(engine, collection)
    with transaction(engine) as connection:
        discard(connection, pending)
    assert store.retrieve(QUESTION, 10, search="lexical") == before
    assert_only_what_is_searchable_counts(engine, collection)


def test_the_words_of_a_collection_go_with_it(
    engine: Engine, collection: Collection, other: Collection, word_embedder: WordEmbedder
) -> None:
    for each in (collection, other):
        put(engine, each, word_embedder, "a.txt", PAPERS["a.txt"])
    delete_collection(engine, other)
    delete_collection(engine, other)  # by two at once
    with engine.connect() as connection:
        assert len(lexical_search(connection, collection.id, QUESTION, 10)) == 1
        if engine.dialect.name == "sqlite":
            left = connection.execute(text(f"SELECT name FROM sqlite_schema WHERE name LIKE '%{other.id}%'"))
            assert left.all() == []


def test_a_collection_deleted_during_a_search_is_unknown(
    engine: Engine,
    collection: Collection,
    store: ChunkStore,
    word_embedder: WordEmbedder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(engine, collection, word_embedder, "a.txt", PAPERS["a.txt"])
    monkeypatch.setattr(store, "refresh", lambda: delete_collection(engine, collection))
    with pytest.raises(UnknownCollection, match="papers"):
        store.retrieve(QUESTION, 1)


def test_no_word_of_a_deleted_document_is_left_in_the_files(tmp_path: Path, word_embedder: WordEmbedder) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'refdesk.db'}")
    collection = create_collection(engine, "papers", embedder="words", dimension=32, max_tokens=254)
    for name, content in PAPERS.items():
        put(engine, collection, word_embedder, name, content)
    put(engine, collection, word_embedder, "b.txt", "The zeppelin is late.")
    delete_document(engine, get_document(engine, collection, "a.txt"))
    delete_document(engine, get_document(engine, collection, "b.txt"))
    with engine.connect() as connection:
        assert len(lexical_search(connection, collection.id, "page lantern", 50)) == 21
    engine.dispose()  # the log is written into the database
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"western" in files
    # FTS5 leaves out what a word begins with, if the one before it does so too.
    for word in (b"arbour", b"eppelin", b"early"):
        assert word not in files
