"""The schema moves up, is what the code declares, and moves down again, on both databases."""

from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect

from refdesk.database import DatabaseUnavailable, connect, migrations, open_database, transaction


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


def test_opening_twice_changes_nothing(database_url: str) -> None:
    open_database(database_url).dispose()
    open_database(database_url).dispose()


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
