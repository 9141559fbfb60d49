"""Alembic's entry: migrations run on the connection that `refdesk.database` hands over."""

from typing import Any

from alembic import context

from refdesk.schema import metadata


def _ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    """Leave out what is derived (vector tables, full-text search), which the migrations write by hand."""
    if kind == "table":
        return name in metadata.tables
    return name not in {"lexemes", "ix_chunk_lexemes"}


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_object=_ours,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
