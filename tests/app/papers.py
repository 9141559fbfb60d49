"""A desk with two documents, which are read into memories and asked about."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refdesk.app.context import AnswerContext
from refdesk.app.intake import Upload
from refdesk.app.jobs import Job, get_job
from refdesk.app.remembering import MemorySettings
from refdesk.app.settings import Settings
from refdesk.compressor.options import CompressionOptions
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.qa import AnswerOptions
from refdesk.reader.stream import Stream
from refdesk.retriever.collections import Collection, get_collection
from tests.eval.conftest import SmallDesk

TEXT = " ".join(f"The lighthouse number {n} was finished in the year {1800 + n}." for n in range(25))
SMALL = {"window": 256, "overlap": 64, "near": 16}
QUESTION = "In which year was the lighthouse number 7 finished?"
NOTHING = CompressionOptions()


class Killed(BaseException):
    """What ends a process in these tests: nobody catches it."""


Open = Callable[[], SmallDesk]


@pytest.fixture
def open_desk(database_url: str, tmp_path: Path, tiny: Callable[..., ReaderModel]) -> Iterator[Open]:
    desks: list[SmallDesk] = []

    def make() -> SmallDesk:
        desks.append(SmallDesk(Settings(tmp_path / "desk", database_url), tiny("llama", 1024)))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(open_desk: Open) -> SmallDesk:
    """With two documents in a collection."""
    desk = open_desk()
    desk.create_collection("papers", 20, 5)
    ingest(desk, "a.txt", TEXT)
    ingest(desk, "b/c.txt", TEXT.replace("lighthouse", "harbour"))
    return desk


def work(desk: SmallDesk, kind: str, job_id: str) -> Job:
    desk.start(kind)
    while not (job := get_job(desk.engine, job_id)).finished:
        time.sleep(0.01)
    desk._workers.pop(kind).close()
    return job


def ingest(desk: SmallDesk, name: str, text: str) -> None:
    intake = desk.take_in(papers(desk), [Upload(name, text.encode())])
    assert work(desk, "ingest", intake.job_id).state == "succeeded"


def papers(desk: SmallDesk) -> Collection:
    return get_collection(desk.engine, "papers")


def remember(desk: SmallDesk, *sources: str, **options: Any) -> Job:
    job_id = desk.remember(papers(desk), sources, MemorySettings("none", SMALL | options))
    return work(desk, "memory", job_id)


def folders(desk: SmallDesk) -> list[Path]:
    """Of memories, whole or not."""
    return sorted((desk.settings.data / "memories").glob("*/*/*"))


def ask(desk: SmallDesk, context: AnswerContext, **options: Any) -> Any:
    asked = AnswerOptions(max_new_tokens=24, stop=(), **options)
    context.check(asked, NOTHING)
    return desk.qa("papers").answer(QUESTION, context.chosen(desk, "papers", QUESTION, asked))


def counted(desk: SmallDesk, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets, from now on, of each request to the desk's engine how many tokens it has behind what is shared."""
    submitted: list[int] = []
    submit = desk.reader[1].submit

    def counting(request: GenerationRequest) -> Stream:
        submitted.append(len(request.token_ids))
        return submit(request)

    monkeypatch.setattr(desk.reader[1], "submit", counting)
    return submitted
