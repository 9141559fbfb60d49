"""Jobs: leases, cancelling, and what is left of work that stopped half-way."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import OperationalError

from refdesk import schema
from refdesk.app.ingestion import Ingestion
from refdesk.app.intake import Upload, take_in
from refdesk.app.jobs import (
    MAX_ATTEMPTS,
    LeaseLost,
    UnknownJob,
    cancel_job,
    claim,
    get_job,
    list_jobs,
    renew,
    set_item,
    worker_name,
)
from refdesk.app.worker import Worker
from refdesk.database import transaction
from refdesk.retriever.collections import Collection
from refdesk.retriever.documents import document_text, get_document, list_documents
from refdesk.retriever.errors import InvalidUpload, UnreadableDocument
from refdesk.retriever.index import VectorIndex
from refdesk.retriever.store import ChunkStore
from tests.conftest import WordEmbedder

LIMIT = 10_000_000
TEXT = " ".join(f"Sentence {i} about thing {i} here." for i in range(100)).encode()


@pytest.fixture
def worker(engine: Engine, word_embedder: WordEmbedder, open_index: Callable[[Collection], VectorIndex]) -> Worker:
    def open_store(collection: Collection) -> ChunkStore:
        return ChunkStore(engine, collection, word_embedder, open_index(collection))

    return Worker(engine, Ingestion(engine, lambda: word_embedder, open_store, lambda: None))


def uploads(*names: str) -> list[Upload]:
    return [Upload(name, TEXT + name.encode()) for name in names]


def pending(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).where(schema.document.c.ready.is_(False))).scalar_one())


def expire_leases(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(update(schema.job).values(lease_until=time.time() - 1))


def text_of(engine: Engine, collection: Collection, source_id: str) -> str:
    return document_text(engine, get_document(engine, collection, source_id).id)


def test_a_job_makes_its_documents_searchable(engine: Engine, collection: Collection, worker: Worker) -> None:
    intake = take_in(engine, collection, uploads("a.txt", "b.txt"), max_bytes=LIMIT)
    assert get_job(engine, intake.job_id).state == "queued"
    assert list_documents(engine, collection, limit=10) == []
    assert worker.run_one()
    job = get_job(engine, intake.job_id)
    assert (job.state, job.done, job.error) == ("succeeded", job.total, None)
    assert [item.state for item in job.items] == ["done", "done"]
    assert len(list_documents(engine, collection, limit=10)) == 2
    assert not worker.run_one()


def test_two_workers_never_do_the_same_job(engine: Engine, collection: Collection) -> None:
    take_in(engine, collection, uploads("a.txt"), max_bytes=LIMIT)
    assert claim(engine, worker_name(), "ingest") is not None
    assert claim(engine, "elsewhere/1/x", "ingest") is None


def test_a_job_of_a_dead_process_or_an_expired_lease_is_taken_over(engine: Engine, collection: Collection) -> None:
    job_id = take_in(engine, collection, uploads("a.txt"), max_bytes=LIMIT).job_id
    me = worker_name()
    host = me.split("/")[0]
    assert claim(engine, f"{host}/999999999/x", "ingest") == job_id
    assert claim(engine, me, "ingest") == job_id
    assert claim(engine, "elsewhere/1/x", "ingest") is None
    expire_leases(engine)
    assert claim(engine, "elsewhere/1/x", "ingest") == job_id
    with pytest.raises(LeaseLost):
        renew(engine, job_id, me)


@pytest.mark.parametrize("told_apart_by", ["host", "container"])
def test_a_living_worker_elsewhere_is_not_taken_for_a_dead_one_here(
    engine: Engine, collection: Collection, monkeypatch: pytest.MonkeyPatch, told_apart_by: str
) -> None:
    take_in(engine, collection, uploads("a.txt"), max_bytes=LIMIT)
    names = []
    for suffix in ("x7k2p", "m4q9z"):  # each has the process id that this one has
        if told_apart_by == "host":
            monkeypatch.setattr(socket, "gethostname", lambda s=suffix: f"refdesk-ingestion-of-the-library-{s}")
        else:
            monkeypatch.setattr(os, "readlink", lambda path, s=suffix: f"pid:[{s}]")
        names.append(worker_name())
    assert claim(engine, names[0], "ingest") is not None
    assert claim(engine, names[1], "ingest") is None


def test_a_job_that_never_gets_further_is_given_up(engine: Engine, collection: Collection) -> None:
    job_id = take_in(engine, collection, uploads("a.txt"), max_bytes=LIMIT).job_id
    host = worker_name().split("/")[0]
    for attempt in range(MAX_ATTEMPTS):
        assert claim(engine, f"{host}/999999999/{attempt}", "ingest") == job_id
    assert claim(engine, worker_name(), "ingest") is None
    job = get_job(engine, job_id)
    assert job.state == "failed"
    assert "without getting further" in str(job.error)
    assert pending(engine) == 0


def test_a_cancelled_job_leaves_nothing(engine: Engine, collection: Collection, worker: Worker) -> None:
    job_id = take_in(engine, collection, uploads("a.txt"), max_bytes=LIMIT).job_id
    assert cancel_job(engine, job_id).state == "cancelled"
    assert pending(engine) == 0
    assert not worker.run_one()
    assert cancel_job(engine, job_id).state == "cancelled"
    with pytest.raises(UnknownJob, match="nope"):
        cancel_job(engine, "nope")


def test_cancelling_a_running_job_keeps_what_is_done(
    engine: Engine, collection: Collection, worker: Worker, word_embedder: WordEmbedder
) -> None:
    job_id = take_in(engine, collection, uploads("a.txt", "b.txt"), max_bytes=LIMIT).job_id
    embed = WordEmbedder.embed_documents

    def cancel_at_the_second(self: WordEmbedder, texts: list[str]) -> list[list[float]]:
        if any("b.txt" in text for text in texts) or list_documents(engine, collection, limit=1):
            cancel_job(engine, job_id)
        return embed(self, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WordEmbedder, "embed_documents", cancel_at_the_second)
        worker.run_one()
    job = get_job(engine, job_id)
    assert job.state == "cancelled"
    assert [item.state for item in job.items] == ["done", "cancelled"]
    assert [d.source_id for d in list_documents(engine, collection, limit=10)] == ["a.txt"]
    assert pending(engine) == 0


class _Broken:
    """`set_item` of a database that goes away just before a version is noted as searchable, once."""

    def __init__(self) -> None:
        self.broke = False

    def __call__(self, *noted: Any) -> None:
        if not self.broke:
            self.broke = True
            raise OperationalError("UPDATE job_item", {}, ConnectionError("gone"))
        set_item(*noted)


@pytest.mark.parametrize("then", ["resumed", "cancelled"])
def test_a_document_is_whole_whatever_breaks_between_its_publication_and_the_note_of_it(
    engine: Engine, collection: Collection, worker: Worker, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    take_in(engine, collection, [Upload("a.txt", b"First.")], max_bytes=LIMIT)
    worker.run_one()
    job_id = take_in(engine, collection, [Upload("a.txt", b"Second.")], max_bytes=LIMIT).job_id
    monkeypatch.setattr("refdesk.app.ingestion.set_item", _Broken())
    with pytest.raises(OperationalError):
        worker.run_one()
    if then == "cancelled":
        cancel_job(engine, job_id)
    expire_leases(engine)
    worker.run_one()
    job = get_job(engine, job_id)
    expected = ("succeeded", "done", "Second.") if then == "resumed" else ("cancelled", "cancelled", "First.")
    assert (job.state, job.items[0].state, text_of(engine, collection, "a.txt")) == expected
    assert pending(engine) == 0


def test_a_document_that_fails_stops_no_other(
    engine: Engine, collection: Collection, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = WordEmbedder.embed_documents

    def fail_on_the_bad_one(self: WordEmbedder, texts: list[str]) -> list[list[float]]:
        if any(text.startswith("bad") for text in texts):
            raise RuntimeError("out of order")
        return embed(self, texts)

    monkeypatch.setattr(WordEmbedder, "embed_documents", fail_on_the_bad_one)
    job_id = take_in(engine, collection, uploads("bad.txt", "good.txt"), max_bytes=LIMIT).job_id
    worker.run_one()
    job = get_job(engine, job_id)
    assert (job.state, job.error) == ("failed", "1 document failed")
    assert [item.state for item in job.items] == ["failed", "done"]
    assert pending(engine) == 0


def test_a_worker_that_stops_leaves_the_job_to_the_next(
    engine: Engine, collection: Collection, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = take_in(engine, collection, uploads("a.txt"), max_bytes=LIMIT).job_id
    worker.close()
    worker.run_one()
    assert get_job(engine, job_id).state == "queued"
    another = Worker(engine, worker._work)
    another.start()
    end = time.monotonic() + 30
    while not get_job(engine, job_id).finished and time.monotonic() < end:
        time.sleep(0.02)
    another.close()
    assert get_job(engine, job_id).state == "succeeded"


def test_a_job_is_never_done_by_another_embedder(
    engine: Engine, collection: Collection, open_index: Callable[[Collection], VectorIndex]
) -> None:
    job_id = take_in(engine, collection, uploads("a.txt"), max_bytes=LIMIT).job_id
    other = WordEmbedder(name="other")

    def open_store(of: Collection) -> ChunkStore:
        return ChunkStore(engine, of, other, open_index(of))

    Worker(engine, Ingestion(engine, lambda: other, open_store, lambda: None)).run_one()
    job = get_job(engine, job_id)
    assert job.state == "failed"
    assert "embedded by words" in str(job.error)
    assert pending(engine) == 0


def test_the_sources_of_one_request_are_told_apart(engine: Engine, collection: Collection) -> None:
    with pytest.raises(InvalidUpload, match="twice"):
        take_in(engine, collection, uploads("a.txt", "a.txt"), max_bytes=LIMIT)
    with pytest.raises(InvalidUpload, match="no file"):
        take_in(engine, collection, [], max_bytes=LIMIT)
    with pytest.raises(UnreadableDocument, match="empty"):
        take_in(engine, collection, [Upload("a.txt", b"")], max_bytes=LIMIT)
    assert pending(engine) == 0
    assert list_jobs(engine, 10) == []


@pytest.mark.parametrize("name", ["caf\udce9.txt", "nul\x00.txt", "x" * 501 + ".txt", " "])
def test_a_file_whose_name_cannot_be_stored_is_refused_and_the_others_come_in(
    engine: Engine, collection: Collection, name: str
) -> None:
    intake = take_in(engine, collection, [Upload(name, TEXT), *uploads("b.txt")], max_bytes=LIMIT)
    ((told, error),) = intake.rejected
    assert repr(name[:80]) in str(error)
    states = [(item.source_id, item.state) for item in get_job(engine, intake.job_id).items]
    assert states == [("b.txt", "queued"), (told, "rejected")]


def test_versions_are_made_in_the_order_they_came(engine: Engine, collection: Collection, worker: Worker) -> None:
    for content in (b"First.", b"Second.", b"First."):
        take_in(engine, collection, [Upload("a.txt", content)], max_bytes=LIMIT)
    while worker.run_one():
        pass
    states = [job.items[0].state for job in reversed(list_jobs(engine, 10))]
    assert states == ["done", "done", "done"]
    assert get_document(engine, collection, "a.txt").num_characters == len("First.")


def test_a_version_that_was_held_up_does_not_replace_a_later_one(
    engine: Engine, collection: Collection, worker: Worker
) -> None:
    held_up = take_in(engine, collection, [Upload("a.txt", b"First.")], max_bytes=LIMIT).job_id
    assert claim(engine, "elsewhere/1/x", "ingest") == held_up
    take_in(engine, collection, [Upload("a.txt", b"Second.")], max_bytes=LIMIT)
    worker.run_one()
    expire_leases(engine)
    worker.run_one()
    job = get_job(engine, held_up)
    assert (job.state, job.items[0].state) == ("succeeded", "superseded")
    assert text_of(engine, collection, "a.txt") == "Second."
    assert pending(engine) == 0
