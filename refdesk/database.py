"""Opening the database: one URL in, a migrated engine out."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

_BUSY_SECONDS = 60.0  # how long one process waits for another's lock
_MIGRATION_LOCK = 7_203_914  # any constant: two processes that start at once migrate one after the other


class DatabaseUnavailable(Exception):
    """The database cannot be opened, or was written by a newer Refdesk."""


def open_database(url: str) -> Engine:
    """Connect and bring the schema to the newest revision.

    `url` is a SQLAlchemy URL: `sqlite:///FILE` or `postgresql://…` (psycopg 3).

    Raises:
        DatabaseUnavailable: the URL is unusable, nobody answers, or the schema is not known here.
    """
    try:
        engine = connect(url)
        with transaction(engine, migrates=True) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            command.upgrade(migrations(connection), "head")
    except (SQLAlchemyError, CommandError, ImportError) as error:
        raise DatabaseUnavailable(f"cannot open the database: {error}") from error
    return engine


def connect(url: str) -> Engine:
    """An engine with the settings every part relies on; the schema is left as it is."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseUnavailable(
            "cannot open the database: not a URL; expected sqlite:/// or postgresql://"
        ) from None
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    if parsed.get_backend_name() != "sqlite":
        raise DatabaseUnavailable(
            f"cannot open the database: {parsed.get_backend_name()} is not supported;"
            " expected sqlite or postgresql"
        )
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def transaction(engine: Engine, *, migrates: bool = False) -> Iterator[Connection]:
    """A writing transaction: all of it or nothing. `migrates`: it changes the schema."""
    options = {"refdesk_write": True, "refdesk_migrates": migrates}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def migrations(connection: Connection) -> Config:
    """Alembic's configuration over an open connection, for `alembic.command`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, DDL included
    cursor = connection.cursor()
    _keep_a_log_ahead(cursor)
    for pragma in ("synchronous=NORMAL", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _keep_a_log_ahead(cursor: Any) -> None:
    """Switch to the write-ahead log, which SQLite refuses at once, not after its timeout, beside a writer."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    # SQLite changes a column by making the table anew; dropping the old one would cascade into others.
    connection.exec_driver_sql(f"PRAGMA foreign_keys={'OFF' if options.get('refdesk_migrates') else 'ON'}")
    # A writer takes its lock at once: a reader that turns writer half-way would fail instead of waiting.
    writes = options.get("refdesk_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
