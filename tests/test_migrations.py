"""The schema moves up, is what the code declares, and moves down again, on both databases."""

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, inspect

from refdesk.database import DatabaseUnavailable, connect, migrations, open_database, transaction
from refdesk.retriever.documents import discard, publish
from refdesk.retriever.lexical import lexical_search


def test_migrations_make_exactly_the_declared_schema(database_url: str) -> None:
    engine = open_database(database_url)
    with transaction(engine) as connection:
        command.check(migrations(connection))
    engine.dispose()


def test_downgrade_leaves_nothing_and_upgrade_works_again(database_url: str) -> None:
    engine = open_database(database_url)
    with transaction(engine, migrates=True) as connection:
        command.downgrade(migrations(connection), "base")
    left = set(inspect(engine).get_table_names()) - {"alembic_version", "sqlite_sequence"}
    assert left == set()
    engine.dispose()
    engine = open_database(database_url)
    assert "document" in inspect(engine).get_table_names()
    engine.dispose()


def test_what_was_stored_before_an_upgrade_is_there_after_it(database_url: str) -> None:
    engine = connect(database_url)
    with transaction(engine, migrates=True) as connection:
        command.upgrade(migrations(connection), "0001")
        connection.exec_driver_sql("INSERT INTO collection VALUES ('c', 'papers', 'words', 32, 20, 5, 0, 1.0)")
        connection.exec_driver_sql(
            "INSERT INTO job (id, kind, collection_id, state, stage, done, total, attempts, cancel_requested,"
            " created_at) VALUES ('j', 'ingest', 'c', 'queued', 'waiting', 0, 1, 0, false, 1.0)"
        )
        connection.exec_driver_sql(
            "INSERT INTO job_item (job_id, position, source_id, state) VALUES ('j', 0, 'a.txt', 'queued')"
        )
    engine.dispose()
    engine = open_database(database_url)
    with transaction(engine) as connection:
        assert connection.exec_driver_sql("SELECT id, collection_id FROM job").all() == [("j", "c")]
        assert connection.exec_driver_sql("SELECT job_id, source_id FROM job_item").all() == [("j", "a.txt")]
        connection.exec_driver_sql("DELETE FROM job")
        assert connection.exec_driver_sql("SELECT * FROM job_item").all() == []
    engine.dispose()


def test_what_was_searchable_before_an_upgrade_is_found_after_it_and_after_a_downgrade(database_url: str) -> None:
    engine = connect(database_url)
    with transaction(engine, migrates=True) as connection:
        command.upgrade(migrations(connection), "0003")
        for collection in ("c1", "c2"):
            connection.exec_driver_sql(
                f"INSERT INTO collection VALUES ('{collection}', '{collection}', 'words', 32, 20, 5, 0, 1.0, NULL)"
            )
        _store(connection, 1, "c1", "true")
        _store(connection, 2, "c2", "true")
        _store(connection, 3, "c2", "false")
    engine.dispose()
    engine = open_database(database_url)
    with transaction(engine) as connection:
        assert lexical_search(connection, "c1", "harbour", 10) == [1]
        assert lexical_search(connection, "c2", "harbour", 10) == [2]
        assert publish(connection, "d3") == "done"
        assert lexical_search(connection, "c2", "harbour", 10) == [2, 3]
        discard(connection, "d2")
        assert lexical_search(connection, "c2", "harbour", 10) == [3]
        assert lexical_search(connection, "c2", "harbour", 10, ["d2"]) == []
    with transaction(engine, migrates=True) as connection:
        command.downgrade(migrations(connection), "0003")
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("DELETE FROM chunk WHERE id = 1")
            found = connection.exec_driver_sql("SELECT rowid FROM chunk_fts WHERE chunk_fts MATCH 'harbour'")
            assert found.scalars().all() == [3]
            connection.exec_driver_sql("INSERT INTO chunk_fts (chunk_fts) VALUES ('integrity-check')")
            left = connection.exec_driver_sql("SELECT name FROM sqlite_schema WHERE name LIKE 'chunk_fts_c_'")
            assert left.all() == []
    engine.dispose()


def _store(connection: Connection, number: int, collection: str, ready: str) -> None:
    """A document of one chunk, as revision 0003 has it."""
    connection.exec_driver_sql(
        "INSERT INTO document (id, collection_id, source_id, title, media_type, content_hash, size_bytes, text,"
        " num_characters, unit, starts, attributes, ready, created_at) VALUES"
        f" ('d{number}', '{collection}', '{number}.txt', '', 'text/plain', 'h{number}', 11, 'The harbour',"
        f" 11, 'line', '[0]', '{{}}', {ready}, 1.0)"
    )
    connection.exec_driver_sql(
        'INSERT INTO chunk (id, document_id, position, start, "end", heading, text)'
        f" VALUES ({number}, 'd{number}', 0, 0, 11, '', 'The harbour')"
    )


def test_opening_twice_changes_nothing(database_url: str) -> None:
    open_database(database_url).dispose()
    open_database(database_url).dispose()


def test_a_new_database_that_another_process_is_writing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE theirs (number)")
    done = threading.Timer(0.3, other.execute, ["COMMIT"])
    done.start()
    engine = open_database(f"sqlite:///{path}")
    done.join()
    other.close()
    assert {"document", "theirs"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_a_schema_from_the_future_is_refused(database_url: str) -> None:
    engine = open_database(database_url)
    with transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(DatabaseUnavailable, match="9999"):
        open_database(database_url)


@pytest.mark.parametrize("url", ["", "mysql://localhost/x", "postgresql://localhost:1/none"])
def test_an_unusable_url_is_a_clear_error(url: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        open_database(url)


def test_connect_alone_leaves_the_schema_as_it_is(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'empty.db'}")
    assert inspect(engine).get_table_names() == []
