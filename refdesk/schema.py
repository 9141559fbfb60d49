"""The one SQL schema, on SQLite and PostgreSQL alike. SQL is the truth; every index is derived from it.

What a dialect has of its own for full-text search (FTS5 tables, a tsvector column) is the business of
`retriever.lexical` and the migrations alone. Times are seconds since the epoch.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# To SQLite, only an INTEGER primary key is the row's own id.
_ChunkId = BigInteger().with_variant(Integer(), "sqlite")

collection = Table(
    "collection",
    metadata,
    Column("id", String(32), primary_key=True),  # random: a derived index left behind never fits a new one
    Column("name", String(64), nullable=False, unique=True),
    Column("embedder", String(200), nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("chunk_size", Integer, nullable=False),
    Column("chunk_overlap", Integer, nullable=False),
    # Grows with every change of what is searchable; a derived index compares it to know that it is stale.
    Column("revision", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("embedder_fingerprint", String(16)),  # null until the collection is opened for the first time
    Column("adapter", String(64)),  # by name: a shipped one has no row
)

document = Table(
    "document",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("collection_id", ForeignKey("collection.id", ondelete="CASCADE"), nullable=False),
    Column("source_id", String(500), nullable=False),
    Column("title", Text, nullable=False),
    Column("media_type", String(100), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("num_characters", Integer, nullable=False),
    # The offset map: source unit i + 1 (a page, a paragraph, a line) begins at text[starts[i]].
    Column("unit", String(16), nullable=False),
    Column("starts", JSON, nullable=False),
    Column("attributes", JSON, nullable=False),
    # False while its chunks are being embedded: a version is searched whole or not at all.
    Column("ready", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("ix_document_collection_id_source_id", "collection_id", "source_id"),
)
Index(
    "uq_document_one_ready_version",
    document.c.collection_id,
    document.c.source_id,
    unique=True,
    sqlite_where=text("ready"),
    postgresql_where=text("ready"),
)

chunk = Table(
    "chunk",
    metadata,
    # Nanoseconds since the epoch, so that an id in a derived index means one text for ever: a counter is set back
    # when a backup is restored, and hands out again what the index holds.
    Column("id", _ChunkId, primary_key=True, autoincrement=False),
    Column("document_id", ForeignKey("document.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("heading", Text, nullable=False),  # searched and embedded with the text, never quoted
    Column("text", Text, nullable=False),
    Column("embedding", LargeBinary),  # float16, unit length; null until embedded
    UniqueConstraint("document_id", "position"),
    CheckConstraint('"end" > start', name="span"),
)

job = Table(
    "job",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(32), nullable=False),
    # Null for an evaluation, which may need none.
    Column("collection_id", ForeignKey("collection.id", ondelete="CASCADE")),
    Column("state", String(16), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("error", Text),
    Column("attempts", Integer, nullable=False),
    Column("lease_owner", String(64)),
    Column("lease_until", Float),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Index("ix_job_state_created_at", "state", "created_at"),
)

job_item = Table(
    "job_item",
    metadata,
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("source_id", String(500), nullable=False),
    # The pending version this item turns into a ready one; null when nothing was to be done, or in another kind of
    # job than ingestion.
    Column("document_id", String(32), index=True),
    Column("state", String(16), nullable=False),
    Column("error", Text),
)

memory_settings = Table(
    "memory_settings",
    metadata,
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("settings", JSON, nullable=False),
)

dataset = Table(
    "dataset",
    metadata,
    Column("id", String(64), primary_key=True),  # sha256 of its content
    Column("name", String(200), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("num_examples", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)

evaluation = Table(
    "evaluation",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("dataset_id", ForeignKey("dataset.id")),  # null for a task of the benchmark data
    Column("settings", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    # What it is made with; noted when the first question is answered, and checked when a run is gone on with.
    Column("versions", JSON, nullable=False),
    Column("commit", String(64), nullable=False),
)

evaluation_score = Table(
    "evaluation_score",
    metadata,
    Column("evaluation_id", ForeignKey("evaluation.id", ondelete="CASCADE"), primary_key=True),
    Column("example_id", String(200), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("question", Text, nullable=False),
    Column("references", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("values", JSON, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("error", Text),
    UniqueConstraint("evaluation_id", "position"),
)

adapter = Table(
    "adapter",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("settings", JSON, nullable=False),
    Column("card", JSON(none_as_null=True)),  # there when it is trained
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scope", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
)
