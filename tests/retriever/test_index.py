"""One suite over every vector index, beside a plain numpy oracle."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from refdesk.retriever.index import VectorIndex, VectorIndexError
from refdesk.retriever.index.flat import FaissIndex
from refdesk.retriever.index.pgvector import PgvectorIndex

DIMENSION = 24
Open = Callable[[], VectorIndex]


class NumpyIndex:
    """The oracle: a dictionary and a matrix product."""

    def __init__(self) -> None:
        self.held: dict[int, np.ndarray] = {}

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.held |= dict(zip(ids.tolist(), vectors, strict=True))

    def remove(self, ids: np.ndarray) -> None:
        for number in ids.tolist():
            self.held.pop(number, None)

    def search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        ids = np.asarray(sorted(self.held if among is None else set(self.held) & set(among.tolist())), np.int64)
        vectors = np.asarray([self.held[number] for number in ids.tolist()]).reshape(len(ids), DIMENSION)
        scores = queries @ vectors.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), ids[order]

    def ids(self) -> np.ndarray:
        return np.asarray(sorted(self.held), dtype=np.int64)


def unit(seed: int, n: int, dimension: int = DIMENSION) -> np.ndarray:
    # Half-precision values, so that every back end holds the very same vectors.
    vectors = np.random.default_rng(seed).standard_normal((n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


@pytest.fixture(params=["faiss", pytest.param("pgvector", marks=pytest.mark.postgres)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the index anew on the same data."""
    if request.param == "faiss":
        return lambda: FaissIndex(tmp_path / "deep" / "x.faiss", DIMENSION)
    engine = create_engine(request.getfixturevalue("fresh_postgres_url"))
    request.addfinalizer(engine.dispose)
    return lambda: PgvectorIndex(engine, "index_x", DIMENSION)


@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_of_changes_finds_what_the_oracle_finds(reopen: Open, seed: int) -> None:
    index, oracle, random = reopen(), NumpyIndex(), np.random.default_rng(seed)
    for step in range(6):
        ids = random.choice(200, size=40, replace=False).astype(np.int64)
        vectors = unit(100 * seed + step, 40)
        index.add(ids, vectors)
        oracle.add(ids, vectors)
        gone = random.choice(300, size=15, replace=False).astype(np.int64)
        index.remove(gone)
        oracle.remove(gone)
        assert index.ids().tolist() == oracle.ids().tolist()
        among = random.choice(250, size=60, replace=False).astype(np.int64)
        for k, only in ((1, None), (10, None), (500, None), (7, among), (500, among)):
            queries = unit(999 + step, 3)
            scores, found = index.search(queries, k, only)
            expected_scores, expected = oracle.search(queries, k, only)
            assert found.shape == expected.shape
            np.testing.assert_allclose(scores, expected_scores, atol=2e-3)
            # Scores closer than half precision tells apart may change places.
            for row, expected_row in zip(found.tolist(), expected.tolist(), strict=True):
                assert len(set(row) & set(expected_row)) >= len(row) - 1


def test_an_empty_index_finds_nothing(reopen: Open) -> None:
    scores, ids = reopen().search(unit(1, 2), 5)
    assert scores.shape == ids.shape == (2, 0)


def test_adding_an_id_again_replaces_its_vector(reopen: Open) -> None:
    index, (first, second) = reopen(), unit(2, 2)
    index.add(np.asarray([7]), first[None])
    index.add(np.asarray([7]), second[None])
    scores, ids = index.search(second[None], 5)
    assert ids.tolist() == [[7]]
    assert scores[0, 0] == pytest.approx(1, abs=2e-3)


def test_what_was_flushed_is_there_after_opening_again(reopen: Open) -> None:
    index = reopen()
    index.add(np.arange(50), unit(3, 50))
    index.remove(np.asarray([3, 4]))
    index.flush()
    assert reopen().ids().tolist() == [number for number in range(50) if number not in (3, 4)]


def test_dropping_leaves_no_trace(reopen: Open, tmp_path: Path) -> None:
    index = reopen()
    index.add(np.arange(5), unit(3, 5))
    index.flush()
    index.drop()
    assert not list(tmp_path.rglob("*.faiss"))
    assert reopen().ids().tolist() == []


@pytest.mark.parametrize(
    "call",
    [
        lambda index: index.search(unit(1, 1), 0),
        lambda index: index.search(unit(1, 1, 5), 3),
        lambda index: index.add(np.asarray([1, 2]), unit(1, 1)),
        lambda index: index.add(np.asarray([1]), np.full((1, DIMENSION), np.nan, np.float32)),
    ],
)
def test_what_cannot_be_searched_or_stored_is_refused(reopen: Open, call: Callable[[VectorIndex], None]) -> None:
    with pytest.raises(ValueError, match=r"k 0|shape|ids for|finite"):
        call(reopen())


def test_searching_while_adding_from_other_threads_is_safe(reopen: Open) -> None:
    index = reopen()
    index.add(np.arange(100), unit(5, 100))
    errors: list[Exception] = []

    def run(action: Callable[[int], object]) -> None:
        try:
            for step in range(20):
                action(step)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(lambda s: index.add(np.arange(100, 120) + s, unit(s, 20)),)),
        threading.Thread(target=run, args=(lambda s: index.remove(np.arange(10) + s),)),
        *(threading.Thread(target=run, args=(lambda s: index.search(unit(s, 2), 10),)) for _ in range(2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.postgres
def test_a_narrow_filter_on_a_large_table_still_gives_k_results(
    fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refdesk.retriever.index.pgvector._EXACT_BELOW", 0)
    # The planner is held to the graph, where a filter makes plain pgvector return next to nothing.
    engine = create_engine(fresh_postgres_url, connect_args={"options": "-c enable_seqscan=off"})
    index = PgvectorIndex(engine, "index_x", DIMENSION)
    index.add(np.arange(2000), unit(8, 2000))
    oracle = NumpyIndex()
    oracle.add(np.arange(2000), unit(8, 2000))
    among = np.arange(0, 2000, 100)
    found = index.search(unit(9, 5), 20, among)[1]
    assert [sorted(row) for row in found.tolist()] == [among.tolist()] * 5
    engine.dispose()


@pytest.mark.postgres
def test_the_graph_finds_nearly_what_exact_search_finds(
    fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refdesk.retriever.index.pgvector._EXACT_BELOW", 0)
    engine = create_engine(fresh_postgres_url)
    index, oracle, vectors = PgvectorIndex(engine, "index_x", DIMENSION), NumpyIndex(), unit(10, 4000)
    index.add(np.arange(4000), vectors)
    oracle.add(np.arange(4000), vectors)
    queries = unit(11, 40)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE index_x"))
    found, expected = index.search(queries, 10)[1], oracle.search(queries, 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), expected.tolist(), strict=True)])
    assert recall >= 0.95
    engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize(("table", "dimension"), [("x; DROP TABLE y", 8), ("index_x", 4001), ("index_x", 0)])
def test_a_table_that_cannot_be_is_refused(fresh_postgres_url: str, table: str, dimension: int) -> None:
    with pytest.raises(VectorIndexError):
        PgvectorIndex(create_engine(fresh_postgres_url), table, dimension)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "dimension"])
def test_a_damaged_file_starts_an_empty_index(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.faiss"
    other = 8 if damage == "dimension" else DIMENSION
    index = FaissIndex(path, other)
    index.add(np.arange(20), unit(1, 20, other))
    index.flush()
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 100)
    assert FaissIndex(path, DIMENSION).ids().tolist() == []


def test_a_flush_that_was_cut_short_leaves_the_old_index_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "x.faiss"
    index = FaissIndex(path, DIMENSION)
    index.add(np.arange(20), unit(1, 20))
    index.flush()
    path.with_suffix(".123.tmp").write_bytes(path.read_bytes()[:50])
    again = FaissIndex(path, DIMENSION)
    assert again.ids().tolist() == list(range(20))
    again.drop()
    assert list(tmp_path.iterdir()) == []
