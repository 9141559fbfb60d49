"""SQLite: the words of each collection in a table of its own, so that no other collection changes its ranks."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute("DROP TRIGGER chunk_fts_insert")
    op.execute("DROP TRIGGER chunk_fts_delete")
    op.execute("DROP TABLE chunk_fts")
    for collection in _collections():
        op.execute(
            f"CREATE VIRTUAL TABLE chunk_fts_{collection} USING fts5("
            "heading, text, content='', tokenize='porter unicode61')"
        )
        op.execute(
            f"INSERT INTO chunk_fts_{collection} (rowid, heading, text)"
            " SELECT chunk.id, chunk.heading, chunk.text"
            " FROM chunk JOIN document ON document.id = chunk.document_id"
            f" WHERE document.collection_id = '{collection}' AND document.ready"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    for collection in _collections():
        op.execute(f"DROP TABLE chunk_fts_{collection}")
    op.execute(
        "CREATE VIRTUAL TABLE chunk_fts USING fts5("
        "heading, text, content='chunk', content_rowid='id', tokenize='porter unicode61')"
    )
    op.execute("INSERT INTO chunk_fts (chunk_fts) VALUES ('rebuild')")
    op.execute(
        "CREATE TRIGGER chunk_fts_insert AFTER INSERT ON chunk BEGIN"
        " INSERT INTO chunk_fts(rowid, heading, text) VALUES (new.id, new.heading, new.text); END"
    )
    op.execute(
        "CREATE TRIGGER chunk_fts_delete AFTER DELETE ON chunk BEGIN"
        " INSERT INTO chunk_fts(chunk_fts, rowid, heading, text)"
        " VALUES ('delete', old.id, old.heading, old.text); END"
    )


def _collections() -> list[str]:
    return [row.id for row in op.get_bind().exec_driver_sql("SELECT id FROM collection")]
