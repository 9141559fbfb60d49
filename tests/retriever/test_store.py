"""Documents in, passages out: versions, spans, searches."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Engine, func, select

from refdesk import schema
from refdesk.database import transaction
from refdesk.retriever.collections import (
    Collection,
    create_collection,
    delete_collection,
    get_collection,
    list_collections,
)
from refdesk.retriever.documents import (
    add_pending,
    delete_document,
    document_text,
    get_document,
    list_documents,
    withdraw,
)
from refdesk.retriever.errors import (
    CollectionExists,
    EmbedderMismatch,
    InvalidCollection,
    InvalidSearch,
    UnknownCollection,
    UnknownDocument,
)
from refdesk.retriever.index import VectorIndex
from refdesk.retriever.ingest import ingest
from refdesk.retriever.lexical import lexical_search
from refdesk.retriever.parse import parse
from refdesk.retriever.store import ChunkStore, Search, fuse
from tests.conftest import WordEmbedder
from tests.retriever.versions import LONG, pend, put

OpenIndex = Callable[[Collection], VectorIndex]
SEARCHES: tuple[Search, ...] = ("dense", "lexical")


def test_every_hit_is_an_exact_span_of_its_document(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    put(engine, collection, word_embedder, "long.txt", LONG)
    hits = store.retrieve("topic7", 5)
    assert "topic7 " in hits[0].text
    for hit in hits:
        assert document_text(engine, hit.document_id)[hit.start : hit.end] == hit.text
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_k_results_come_back_when_k_exist_whatever_the_filter(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    for i in range(6):
        put(engine, collection, word_embedder, f"{i}.txt", LONG.replace("topic", f"topic{i}x"))
    chunks = get_document(engine, collection, "3.txt").num_chunks
    assert chunks > 10
    for k in (1, 10, chunks):
        hits = store.retrieve("topic", k, ["3.txt"])
        assert len(hits) == k
        assert {hit.source_id for hit in hits} == {"3.txt"}
    assert len(store.retrieve("topic", 1000, ["3.txt"])) == chunks
    assert len(store.retrieve("topic", 1000)) == 6 * chunks


def test_new_content_replaces_the_old_and_equal_content_changes_nothing(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    put(engine, collection, word_embedder, "a.txt", "The cat sat on the mat.")
    first = get_document(engine, collection, "a.txt")
    assert put(engine, collection, word_embedder, "a.txt", "The cat sat on the mat.") != first.id
    again = get_document(engine, collection, "a.txt")
    assert again == replace(first, created_at=again.created_at)
    put(engine, collection, word_embedder, "a.txt", "The dog ran away.")
    assert [hit.text for hit in store.retrieve("cat", 10)] == ["The dog ran away."]
    assert len(list_documents(engine, collection, limit=10)) == 1


def test_what_came_last_stays_whichever_is_ready_last(
    engine: Engine, collection: Collection, word_embedder: WordEmbedder
) -> None:
    first, second = (pend(engine, collection, "a.txt", text) for text in ("The cat.", "The dog."))
    assert ingest(engine, word_embedder, collection, second) == "done"
    assert ingest(engine, word_embedder, collection, first) == "superseded"
    assert get_document(engine, collection, "a.txt").id == second
    between, again = (pend(engine, collection, "a.txt", text) for text in ("The owl.", "The dog."))
    assert ingest(engine, word_embedder, collection, again) == "unchanged"
    assert ingest(engine, word_embedder, collection, between) == "superseded"
    assert get_document(engine, collection, "a.txt").id == second


def test_a_version_that_is_searchable_stays_when_it_is_published_or_withdrawn_again(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    document_id = put(engine, collection, word_embedder, "a.txt", "The cat sat on the mat.")
    assert ingest(engine, word_embedder, collection, document_id) == "done"
    with transaction(engine) as connection:
        withdraw(connection, document_id)
    assert get_document(engine, collection, "a.txt").id == document_id
    assert [hit.text for hit in store.retrieve("cat", 10, search="lexical")] == ["The cat sat on the mat."]


def test_a_pending_version_is_not_searched_and_the_old_one_still_is(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    put(engine, collection, word_embedder, "a.txt", "The old text.")
    raw = LONG.encode()
    with transaction(engine) as connection:
        pending = add_pending(connection, collection.id, "a.txt", parse(raw, "a.txt"), digest="x", size_bytes=1)

    class Killed(Exception):
        pass

    def kill(stage: str, share: float) -> None:
        if share > 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refdesk.retriever.ingest.EMBED_BATCH", 4)
        with pytest.raises(Killed):
            ingest(engine, word_embedder, collection, pending, kill)
        assert [hit.text for hit in store.retrieve("text", 10)] == ["The old text."]
        with engine.connect() as connection:
            embedded = connection.execute(
                select(func.count()).where(
                    schema.chunk.c.document_id == pending, schema.chunk.c.embedding.is_not(None)
                )
            ).scalar_one()
        assert embedded == 4
        ingest(engine, word_embedder, collection, pending)
    assert get_document(engine, collection, "a.txt").id == pending
    assert "The old text." not in [hit.text for hit in store.retrieve("text", 100)]


def test_deleting_leaves_no_trace(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder, open_index: OpenIndex
) -> None:
    put(engine, collection, word_embedder, "a.txt", LONG)
    put(engine, collection, word_embedder, "b.txt", "Something else.")
    store.refresh(flush=True)
    delete_document(engine, get_document(engine, collection, "a.txt"))
    store.refresh(flush=True)
    assert {hit.source_id for hit in store.retrieve("topic7", 100)} == {"b.txt"}
    assert len(open_index(collection).ids()) == 1
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(schema.chunk)).scalar_one() == 1
        assert lexical_search(connection, collection.id, "topic7", 1) == []
    with pytest.raises(UnknownDocument, match=r"a\.txt"):
        get_document(engine, collection, "a.txt")


def test_words_find_what_the_embedder_blurs(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    put(engine, collection, word_embedder, "a.txt", LONG)
    put(engine, collection, word_embedder, "b.txt", "Order 4711-Q was shipped to Zanzibar.")
    assert store.retrieve("Where did order 4711-Q go?", 1)[0].source_id == "b.txt"


@pytest.mark.parametrize(
    "question", ['"', "AND OR NOT", "NEAR(", "a* b:c -d", "'; DROP TABLE chunk; --", "\\", "🦊"]
)
def test_a_question_is_never_taken_for_a_query_language(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder, question: str
) -> None:
    put(engine, collection, word_embedder, "a.txt", LONG)
    assert len(store.retrieve(question, 3)) == 3


def test_each_search_ranks_by_its_own_and_hybrid_by_both(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    put(engine, collection, word_embedder, "long.txt", LONG)
    dense = [hit.chunk_id for hit in store.retrieve("topic7 topic8", 5, search="dense")]
    lexical = [hit.chunk_id for hit in store.retrieve("topic7 topic8", 5, search="lexical")]
    assert "topic7 " in store.retrieve("topic7", 1, search="lexical")[0].text
    assert 0 < len(lexical) < 5  # chunks that share no word are not found
    assert len(dense) == 5
    hybrid = [hit.chunk_id for hit in store.retrieve("topic7 topic8", 1000)]
    both = fuse([[hit.chunk_id for hit in store.retrieve("topic7 topic8", 1000, search=s)] for s in SEARCHES])
    assert hybrid == sorted(both, key=lambda chunk_id: (-both[chunk_id], chunk_id))
    assert store.retrieve("nothingofthekind", 5, search="lexical") == []


def test_fusion_adds_reciprocal_ranks() -> None:
    scores = fuse([[1, 2], [2, 3]])
    assert scores == {1: 1 / 61, 2: 1 / 62 + 1 / 61, 3: 1 / 62}


@pytest.mark.parametrize(("question", "k"), [("", 3), ("  \n", 3), ("x", 0), ("x", -1), ("x", 1001)])
def test_a_search_that_makes_no_sense_is_refused(store: ChunkStore, question: str, k: int) -> None:
    with pytest.raises(InvalidSearch, match=r"empty|expected 1 to 1000"):
        store.retrieve(question, k)


def test_an_unknown_document_in_a_filter_is_refused(store: ChunkStore) -> None:
    with pytest.raises(UnknownDocument, match="nope"):
        store.retrieve("x", 3, ["nope"])


def test_a_collection_remembers_its_embedder_and_refuses_another(
    engine: Engine, collection: Collection, open_index: OpenIndex
) -> None:
    other = WordEmbedder(name="other")
    with pytest.raises(EmbedderMismatch, match=r"words.*other"):
        ChunkStore(engine, collection, other, open_index(collection))


def test_a_collection_refuses_other_weights_of_the_same_name_once_it_was_opened(
    engine: Engine, collection: Collection, word_embedder: WordEmbedder, open_index: OpenIndex
) -> None:
    index = open_index(collection)
    ChunkStore(engine, collection, word_embedder, index)
    ChunkStore(engine, collection, word_embedder, index)
    retrained = WordEmbedder(fingerprint="retrained")
    for seen in (collection, get_collection(engine, collection.name)):  # before and after it was noted
        with pytest.raises(EmbedderMismatch, match=r"words \(32 dimensions, fingerprint of no weights.*retrained"):
            ChunkStore(engine, seen, retrained, index)


@pytest.mark.parametrize(
    ("name", "size", "overlap"),
    [
        ("", None, None),
        ("Ü", None, None),
        ("x" * 65, None, None),
        ("ok", 3, None),
        ("ok", 207, None),
        ("ok", 20, 11),
    ],
)
def test_a_collection_that_cannot_be_is_refused(
    engine: Engine, name: str, size: int | None, overlap: int | None
) -> None:
    with pytest.raises(InvalidCollection, match="expected"):
        create_collection(
            engine, name, embedder="e", dimension=3, max_tokens=254, chunk_size=size, chunk_overlap=overlap
        )


def test_collections_are_told_apart_and_deleted_whole(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    with pytest.raises(CollectionExists):
        create_collection(engine, "papers", embedder="e", dimension=3, max_tokens=254)
    with pytest.raises(UnknownCollection, match="known: papers"):
        get_collection(engine, "letters")
    put(engine, collection, word_embedder, "a.txt", LONG)
    ((_, counts),) = list_collections(engine)
    assert counts["documents"] == 1
    delete_collection(engine, collection)
    with engine.connect() as connection:
        for table in (schema.collection, schema.document, schema.chunk, schema.job):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0
    with pytest.raises(UnknownCollection):
        store.retrieve("x", 1)


def test_a_sample_is_of_searchable_chunks_and_follows_its_seed(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    put(engine, collection, word_embedder, "long.txt", LONG)
    every = store.sample(1000)
    assert len({hit.chunk_id for hit in every}) == len(every) == len(store.retrieve("topic7", 1000))
    few = store.sample(3, seed=1)
    assert len(few) == 3
    assert {hit.chunk_id for hit in few} < {hit.chunk_id for hit in every}
    assert store.sample(3, seed=1) == few
    assert store.sample(3, seed=2) != few
    for hit in few:
        assert document_text(engine, hit.document_id)[hit.start : hit.end] == hit.text


def test_the_similarity_of_every_chunk_is_what_a_dense_search_ranks_by(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    for name in ("a.txt", "b.txt"):
        put(engine, collection, word_embedder, name, LONG.replace("topic", name[0]))
    document = get_document(engine, collection, "b.txt")
    found = store.similarity("b7", [document.id])
    ranked = store.retrieve("b7", 1000, ["b.txt"], search="dense")
    assert len(found) == document.num_chunks
    assert found == {hit.chunk_id: hit.score for hit in ranked}
    both = [document.id, get_document(engine, collection, "a.txt").id]
    assert len(store.similarity("b7", both)) == len(store.retrieve("b7", 1000, search="dense"))
    delete_document(engine, document)
    assert store.similarity("b7", [document.id]) == {}


def test_the_chunks_of_a_document_come_in_the_order_of_its_text(
    engine: Engine, collection: Collection, store: ChunkStore, word_embedder: WordEmbedder
) -> None:
    put(engine, collection, word_embedder, "long.txt", LONG)
    document = get_document(engine, collection, "long.txt")
    put(engine, collection, word_embedder, "other.txt", LONG.replace("topic", "theme"))
    chunks = store.chunks(document.id)
    assert [(hit.chunk_id, hit.start, hit.end) for hit in chunks] == store.spans(document.id)
    assert len(chunks) == document.num_chunks > 1
    found = {hit.chunk_id: hit for hit in store.retrieve("topic7", 1000, ["long.txt"])}
    assert all(replace(found[hit.chunk_id], score=0.0) == hit for hit in chunks)
    pend(engine, collection, "long.txt", "Another version.")
    assert store.chunks(document.id) == chunks
    assert store.chunks("nobody") == []
