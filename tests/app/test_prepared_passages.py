"""Passages are read ahead by jobs, and answers that read them apart find them."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import update

from refdesk import schema
from refdesk.app.context import AnswerContext
from refdesk.app.document_reading import memory_readers
from refdesk.app.jobs import Job, cancel_job, list_jobs
from refdesk.app.memories import MemoryNotFound, Of
from refdesk.app.remembering import MemorySettings, Remembering
from refdesk.app.worker import Cancelled
from refdesk.reader.errors import InvalidOption
from refdesk.reader.qa import Answer
from refdesk.retriever.documents import get_document
from refdesk.retriever.errors import EmbedderMismatch, UnknownDocument
from tests.app.papers import (
    TEXT,
    Killed,
    Open,
    ask,
    counted,
    desk,
    folders,
    ingest,
    open_desk,
    papers,
    remember,
    work,
)
from tests.app.test_remembering import reading
from tests.eval.conftest import SmallDesk
from tests.reader.conftest import tiny, tokenizer

__all__ = ["desk", "open_desk", "tiny", "tokenizer"]

pytestmark = pytest.mark.usefixtures("one_thread")

PASSAGES = MemorySettings("none", of="passages")


def prepare(desk: SmallDesk, *sources: str) -> Job:
    return work(desk, "memory", desk.remember(papers(desk), sources, PASSAGES))


def states(job: Job) -> list[str]:
    return [item.state for item in job.items]


def apart(desk: SmallDesk, document: str, k: int = 4) -> Answer:
    answer: Answer = ask(desk, AnswerContext(), documents=(document,), k=k, reading="apart")
    return answer


def counts(answer: Answer) -> tuple[int, int, int]:
    return answer.usage.run_hits, answer.usage.run_loads, answer.usage.run_misses


def runs(desk: SmallDesk) -> list[Path]:
    return sorted((desk.settings.data / "memories").glob("*/*/*/*.run"))


def chunks(desk: SmallDesk, name: str) -> int:
    return get_document(desk.engine, papers(desk), name).num_chunks


def test_passages_that_another_embedder_made_are_refused_before_there_is_a_job(
    desk: SmallDesk, open_desk: Open
) -> None:
    with desk.engine.begin() as connection:
        connection.execute(update(schema.collection).values(embedder_fingerprint="another"))
    desk.close()
    later = open_desk()
    before = list_jobs(later.engine, 10)
    with pytest.raises(EmbedderMismatch, match="another"):
        later.remember(papers(later), ("a.txt",), PASSAGES)
    assert list_jobs(later.engine, 10) == before


def test_answers_load_what_was_prepared_in_this_process_and_in_the_next(desk: SmallDesk, open_desk: Open) -> None:
    expected = apart(desk, "a.txt")  # before anything is kept
    assert counts(expected) == (0, 0, 5)
    job = prepare(desk, "a.txt")
    assert (job.state, states(job)) == ("succeeded", ["done"])
    assert job.done == job.total > 800
    assert len(runs(desk)) == chunks(desk, "a.txt") > 10
    # The first four are in memory, and what stands in front.
    assert counts(apart(desk, "a.txt", k=40)) == (5, chunks(desk, "a.txt") - 4, 0)
    desk.close()
    another = open_desk()
    found = apart(another, "a.txt")
    assert counts(found) == (0, 4, 1)  # what stands in front is read
    assert found.text == expected.text
    assert counts(apart(another, "b/c.txt")) == (1, 0, 4)


def test_what_is_dropped_is_not_found_and_what_is_prepared_meanwhile_is(desk: SmallDesk) -> None:
    prepare(desk, "a.txt")
    assert counts(apart(desk, "a.txt", k=1)) == (1, 1, 0)  # what stands in front was read for all of them
    prepare(desk, "b/c.txt")
    assert counts(apart(desk, "b/c.txt", k=1)) == (1, 1, 0)
    desk.memories.drop(get_document(desk.engine, papers(desk), "a.txt"))
    assert counts(apart(desk, "a.txt", k=3)) == (2, 0, 2)
    assert counts(apart(desk, "b/c.txt", k=3)) == (2, 2, 0)


def test_what_is_prepared_is_not_read_again_and_a_memory_of_the_whole_is_another(desk: SmallDesk) -> None:
    prepare(desk, "a.txt")
    remember(desk, "a.txt")
    assert states(prepare(desk)) == ["unchanged", "done"]
    assert states(remember(desk)) == ["unchanged", "done"]
    found = desk.memories.list(papers(desk))
    assert sorted((entry.source_id, entry.card.of) for entry in found) == [
        (name, of) for name in ("a.txt", "b/c.txt") for of in ("document", "passages")
    ]
    fits = memory_readers(desk, None)
    assert {entry.reader for entry in found} == fits
    for entry in found:
        if entry.card.of == "passages":
            sizes = [file.stat().st_size for file in runs(desk) if entry.document_id in str(file)]
            assert len(sizes) == chunks(desk, entry.source_id)
            assert 0 < entry.bytes - sum(sizes) < 200  # the card


@pytest.mark.parametrize("moment", ["reading", "placing"])
def test_a_job_that_was_killed_is_gone_on_with_behind_what_is_done(
    moment: str, desk: SmallDesk, open_desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    job_id = desk.remember(papers(desk), ["a.txt"], PASSAGES)
    if moment == "placing":
        monkeypatch.setattr(desk.memories, "place", killed)
    with pytest.raises(Killed):
        reading(desk, job_id, lambda done: killed() if moment == "reading" and done > 500 else None)
    (part,) = folders(desk)
    assert part.suffix == ".part"
    done = len(runs(desk))
    assert counts(apart(desk, "a.txt")) == (1, 0, 4)  # what is not whole is nobody's
    desk.close()
    another = open_desk()
    submitted = counted(another, monkeypatch)
    assert work(another, "memory", job_id).state == "succeeded"
    assert len(submitted) == chunks(another, "a.txt") - done
    assert (done > 5) if moment == "reading" else submitted == []
    monkeypatch.undo()
    assert [folder.suffix for folder in folders(another)] == [""]
    assert apart(another, "a.txt").usage.run_loads == 4


def test_a_job_that_is_cancelled_leaves_nothing_and_what_was_done_stays(desk: SmallDesk) -> None:
    job_id = desk.remember(papers(desk), [], PASSAGES)

    def cancelling(done: int) -> None:
        begun = [folder for folder in folders(desk) if folder.suffix == ".part" and list(folder.glob("*.run"))]
        if begun and len(folders(desk)) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        reading(desk, job_id, cancelling)
    assert [folder.suffix for folder in folders(desk)] == [""]
    assert len(runs(desk)) in (chunks(desk, "a.txt"), chunks(desk, "b/c.txt"))


def test_what_nobody_goes_on_with_is_swept_away(desk: SmallDesk) -> None:
    def killed(done: int) -> None:
        if done:
            raise Killed

    job_id = desk.remember(papers(desk), ["a.txt"], PASSAGES)
    with pytest.raises(Killed):
        reading(desk, job_id, killed)
    desk.memories.sweep()
    assert len(folders(desk)) == 1  # its job is not over
    cancel_job(desk.engine, job_id)
    Remembering(desk).heal()
    assert folders(desk) == []


def test_runs_of_a_version_go_with_it(desk: SmallDesk) -> None:
    prepare(desk)
    ingest(desk, "a.txt", TEXT.replace("finished", "opened"))
    assert len(runs(desk)) == chunks(desk, "b/c.txt")
    assert counts(apart(desk, "a.txt")) == (1, 0, 4)
    assert states(prepare(desk)) == ["done", "unchanged"]
    desk.delete_document(papers(desk), "b/c.txt")
    assert len(runs(desk)) == chunks(desk, "a.txt")
    desk.delete_collection("papers")
    assert folders(desk) == []


@pytest.mark.parametrize("content", [b"", b"no such thing", None])
def test_a_damaged_run_fails_no_answer_and_is_made_again(content: bytes | None, desk: SmallDesk) -> None:
    prepare(desk, "a.txt")
    for file in runs(desk):
        file.write_bytes(b"." * file.stat().st_size if content is None else content)
    assert counts(apart(desk, "a.txt")) == (1, 0, 4)
    assert len(runs(desk)) == chunks(desk, "a.txt") - 4  # those that were found out
    assert states(prepare(desk, "a.txt")) == ["done"]
    assert len(runs(desk)) == chunks(desk, "a.txt")
    again = apart(desk, "a.txt", k=6)
    assert counts(again) == (5, 2, 0)


def test_deleting_by_name_removes_what_was_prepared(desk: SmallDesk) -> None:
    prepare(desk)
    document = get_document(desk.engine, papers(desk), "b/c.txt")
    desk.memories.drop(document)
    assert len(runs(desk)) == chunks(desk, "a.txt")
    with pytest.raises(MemoryNotFound, match=r"'b/c\.txt' has no memory"):
        desk.memories.drop(document)


def test_what_cannot_be_prepared_is_refused_by_name(desk: SmallDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownDocument, match="nope"):
        prepare(desk, "a.txt", "nope")
    with pytest.raises(InvalidOption, match="near is 16; expected nothing, for passages are read as answers"):
        desk.remember(papers(desk), [], MemorySettings("none", {"near": 16}, "passages"))
    strange: Of = "chapters"  # type: ignore[assignment]
    with pytest.raises(InvalidOption, match="of is 'chapters'; expected one of document, passages"):
        desk.remember(papers(desk), [], MemorySettings("none", of=strange))
    usage = shutil.disk_usage(desk.settings.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**10))
    failed = prepare(desk, "a.txt")
    assert (failed.state, folders(desk)) == ("failed", [])
    assert "the runs of" in str(failed.items[0].error) and "the disk has 0 MiB left" in str(failed.items[0].error)
