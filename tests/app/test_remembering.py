"""Documents are read into memories by jobs, and answered over whole."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refdesk.app import memories
from refdesk.app.context import AnswerContext
from refdesk.app.jobs import cancel_job, get_job
from refdesk.app.memories import MemoryNotFound
from refdesk.app.remembering import MemorySettings, Remembering
from refdesk.app.worker import Cancelled
from refdesk.compressor.options import compression_options
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import memory_options
from refdesk.reader.cancellation import Cancellation
from refdesk.reader.errors import DeadlineExceeded, Interrupted, InvalidOption
from refdesk.reader.qa import QA, AnswerOptions, Done, Retrieved
from refdesk.retriever.documents import document_text, get_document
from refdesk.retriever.errors import InvalidUpload, UnknownDocument
from tests.app.papers import (
    QUESTION,
    SMALL,
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
from tests.eval.conftest import SmallDesk
from tests.reader.conftest import tiny, tokenizer
from tests.reader.stepped import made_heads

__all__ = ["desk", "open_desk", "tiny", "tokenizer"]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_document_is_remembered_and_answered_over_with_exact_citations(desk: SmallDesk) -> None:
    job = remember(desk, "a.txt")
    assert (job.state, [item.state for item in job.items]) == ("succeeded", ["done"])
    assert job.done == job.total > 800
    answer = ask(desk, AnswerContext("attended", entries=64), documents=("a.txt",))
    assert (answer.usage.context, answer.usage.document_tokens) == ("attended", job.total)
    assert answer.usage.passages_retrieved == 0
    assert len(answer.passages) == 5
    for one in (*answer.passages, *answer.citations):
        quote = one.text if hasattr(one, "text") else one.quote
        assert one.document_id == "a.txt"
        document = get_document(desk.engine, papers(desk), one.document_id)
        assert document_text(desk.engine, document.id)[one.start : one.end] == quote
    again = ask(desk, AnswerContext("attended", entries=64), documents=("a.txt",))
    assert again.text == answer.text != ask(desk, AnswerContext(), documents=("a.txt",)).text


def test_what_a_question_attends_to_most_is_read_as_the_passages_that_it_is(desk: SmallDesk) -> None:
    job = remember(desk, "a.txt")
    answer = ask(desk, AnswerContext("document"), documents=("a.txt",), k=5)
    assert (answer.usage.context, answer.usage.document_tokens) == ("document", job.total)
    assert (answer.usage.passages_retrieved, answer.usage.passages_used) == (5, 5)
    model, engine = desk.reader
    whole = desk.whole_documents(papers(desk), ["a.txt"], None)
    assert answer.passages == whole.find(QUESTION, 5, model, None, engine.submit)
    only = AnswerOptions(k=5, max_new_tokens=24, stop=())
    again = QA(lambda question, k, documents: answer.passages, model, engine).answer(QUESTION, only)
    assert again.text == answer.text
    few = {"documents": ("a.txt",), "k": 2, "memory": memory_options({"rate": 2}), "reading": "together"}
    thinned = ask(desk, AnswerContext("document"), **few).usage
    assert (thinned.passages_used, thinned.memory_policy) == (2, "kv_compress")


def test_what_is_found_is_shortened_and_quoted_as_any_passages_are(desk: SmallDesk) -> None:
    remember(desk, "a.txt")
    shorten = desk.shortener(compression_options({"strategy": "best", "budget": 15}))
    answer = ask(desk, AnswerContext("document"), documents=("a.txt",), k=4, shorten=shorten, form="quote")
    assert (answer.usage.context, answer.usage.passages_retrieved) == ("document", 4)
    assert (answer.usage.compression.strategy, answer.usage.compression.tokens_after) == ("best", 15)
    assert len(answer.passages) == 1


def test_a_question_that_finds_nothing_has_no_answer(desk: SmallDesk) -> None:
    remember(desk, "a.txt")
    whole = desk.whole_documents(papers(desk), ["a.txt"], None)
    nothing = AnswerOptions(whole=replace(whole, passages=lambda attended, count, question: []))
    assert desk.qa("papers").answer(QUESTION, nothing).finish_reason == "no_passages"


def test_looking_for_passages_ends_with_the_answers_deadline_and_its_cancellation(desk: SmallDesk) -> None:
    remember(desk, "a.txt")
    qa, options = desk.qa("papers"), AnswerOptions(whole=desk.whole_documents(papers(desk), ["a.txt"], None))
    with pytest.raises(DeadlineExceeded):
        qa.answer(QUESTION, replace(options, deadline_s=1e-6))
    model, engine = desk.reader
    assert options.whole is not None
    with pytest.raises(Interrupted):
        options.whole.find(
            QUESTION, 3, model, None, lambda request: engine.submit(replace(request, deadline_s=1e-9))
        )
    cancellation = Cancellation()
    cancellation.cancel()
    *events, done = qa.stream(QUESTION, options, cancellation)
    assert events == [Retrieved(())]
    assert isinstance(done, Done)
    assert (done.answer.text, done.answer.finish_reason) == ("", "cancelled")
    assert done.answer.usage.passages_retrieved == 0


def test_all_of_a_collection_is_remembered_where_none_is_named_and_two_are_answered_over(desk: SmallDesk) -> None:
    job = remember(desk)
    assert [(item.source_id, item.state) for item in job.items] == [("a.txt", "done"), ("b/c.txt", "done")]
    found = desk.memories.list(papers(desk))
    assert [entry.source_id for entry in found] == ["a.txt", "b/c.txt"]
    assert sum(entry.card.tokens for entry in found) == job.total
    plan = desk.whole_documents(papers(desk), ["a.txt"], None).recall.memories[0].plan
    assert plan.bytes < found[0].bytes < plan.bytes + 4 * plan.tokens + 1000
    answer = ask(desk, AnswerContext("document"), k=40)  # those that hold the best passages
    assert answer.usage.document_tokens == job.total
    answer = ask(desk, AnswerContext("document"), documents=("a.txt", "b/c.txt", "a.txt"))
    assert answer.usage.document_tokens == job.total


def test_only_so_many_memories_are_mapped_at_a_time(desk: SmallDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "_MAPPED", 1)
    remember(desk)
    first, second, again = (
        desk.whole_documents(papers(desk), [source], None).recall.memories[0]
        for source in ("a.txt", "b/c.txt", "a.txt")
    )
    assert first is not again  # for it was let go
    assert torch.equal(first.far, again.far)
    assert len(desk.memories._open) == 1
    both = desk.whole_documents(papers(desk), ["a.txt", "b/c.txt"], None)
    assert [one.plan.tokens for one in both.recall.memories] == [first.plan.tokens, second.plan.tokens]


def test_what_is_remembered_is_not_read_again_unless_it_is_to_be_otherwise(desk: SmallDesk) -> None:
    remember(desk, "a.txt")
    assert [item.state for item in remember(desk).items] == ["unchanged", "done"]
    before = desk.whole_documents(papers(desk), ["a.txt"], None).recall.memories[0]
    assert desk.whole_documents(papers(desk), ["a.txt"], None).recall.memories[0] is before  # mapped once
    for options in ({"near": 17}, {"window": 200}, {"layers": [2]}):
        assert [item.state for item in remember(desk, "a.txt", **options).items] == ["done"]
        (entry,) = [one for one in desk.memories.list(papers(desk)) if one.source_id == "a.txt"]
        assert options.items() <= entry.card.options.items()
    after = desk.whole_documents(papers(desk), ["a.txt"], None).recall.memories[0]
    assert (before.plan.retrieving, after.plan.retrieving) == ((1, 2), (2,))
    with pytest.raises(InvalidMemory, match="differ in the layers"):
        desk.whole_documents(papers(desk), ["a.txt", "b/c.txt"], None)
    both = {"documents": ("a.txt", "b/c.txt")}
    assert ask(desk, AnswerContext("auto"), **both).usage.context == "passages"
    alone = (entry.card.tokens for entry in desk.memories.list(papers(desk)))
    assert ask(desk, AnswerContext("document"), k=40).usage.document_tokens in alone


def test_infinipot_thins_until_there_are_heads_and_the_card_says_what_did(
    desk: SmallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remembered(**options: object) -> tuple[str, object, str]:
        (item,) = remember(desk, "a.txt", **options).items
        (entry,) = desk.memories.list(papers(desk))
        return item.state, entry.card.options.get("keep"), entry.card.heads

    assert remembered() == ("done", None, "")
    assert remembered(rate=4.0) == ("done", "infinipot", "")
    assert remembered(rate=4.0, keep="infinipot") == ("unchanged", "infinipot", "")
    plan = desk.whole_documents(papers(desk), ["a.txt"], None).recall.memories[0].plan
    assert plan.held_far() * 4 <= plan.tokens - 16 < (plan.held_far() + 1) * 4
    assert ask(desk, AnswerContext("document", entries=64), documents=("a.txt",)).passages
    monkeypatch.setattr(desk, "heads", lambda adapter: made_heads())  # some have been trained
    assert remembered(rate=4.0, keep="infinipot") == ("unchanged", "infinipot", "")
    assert remembered(rate=4.0) == ("done", "locret", "random")
    assert remembered(rate=4.0, keep="locret") == ("unchanged", "locret", "random")


def reading(desk: SmallDesk, job_id: str, at: Callable[[int], None]) -> None:
    """What its worker would do; `at` is called with the tokens read, and may end it."""
    Remembering(desk).do(get_job(desk.engine, job_id), lambda stage, done: at(done) if stage == "read" else None)


@pytest.mark.parametrize(("moment", "rate"), [("reading", 1.0), ("placing", 1.0), ("reading", 4.0)])
def test_a_job_that_was_killed_is_gone_on_with_where_it_was(
    moment: str, rate: float, desk: SmallDesk, open_desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    job_id = desk.remember(papers(desk), ["a.txt"], MemorySettings("none", SMALL | {"rate": rate}))
    if moment == "placing":
        monkeypatch.setattr(desk.memories, "place", killed)
    with pytest.raises(Killed):
        reading(desk, job_id, lambda done: killed() if moment == "reading" and done > 500 else None)
    (part,) = folders(desk)
    assert part.suffix == ".part"
    assert desk.memories.list(papers(desk)) == []
    with pytest.raises(MemoryNotFound):
        desk.whole_documents(papers(desk), ["a.txt"], None)
    desk.close()
    another = open_desk()
    submitted = counted(another, monkeypatch)
    job = work(another, "memory", job_id)
    assert job.state == "succeeded"
    # Of each chunk of 256 tokens, 64 are read for the others.
    assert sum(submitted) < job.total - 300 if moment == "reading" else submitted == []
    (folder,) = folders(another)
    assert folder.suffix == ""
    assert another.whole_documents(papers(another), ["a.txt"], None).recall.tokens == job.total


def test_a_job_that_is_cancelled_leaves_nothing_and_what_was_done_stays(desk: SmallDesk) -> None:
    job_id = desk.remember(papers(desk), [], MemorySettings("none", SMALL))

    def cancelling(done: int) -> None:
        if any(folder.suffix == ".part" for folder in folders(desk)) and len(folders(desk)) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        reading(desk, job_id, cancelling)
    assert [folder.suffix for folder in folders(desk)] == [""]


def test_what_nobody_goes_on_with_is_swept_away(desk: SmallDesk) -> None:
    def killed(done: int) -> None:
        if done:
            raise Killed

    job_id = desk.remember(papers(desk), ["a.txt"], MemorySettings("none", SMALL))
    with pytest.raises(Killed):
        reading(desk, job_id, killed)
    strange = desk.settings.data / "memories" / "strange.txt"
    strange.write_text("Nobody knows who wrote this.")
    desk.memories.sweep()
    assert strange.exists()
    assert len(folders(desk)) == 1  # its job is not over
    cancel_job(desk.engine, job_id)
    Remembering(desk).heal()
    assert folders(desk) == []


def test_a_new_version_drops_the_memory_of_the_old_one(desk: SmallDesk) -> None:
    remember(desk)
    ingest(desk, "a.txt", TEXT + " And one more.")
    assert [entry.source_id for entry in desk.memories.list(papers(desk))] == ["b/c.txt"]
    assert len(folders(desk)) == 1
    with pytest.raises(
        MemoryNotFound, match=r"with no adapter of 'a\.txt'; make one by POST /v1/collections/papers"
    ):
        ask(desk, AnswerContext("document"), documents=("a.txt", "b/c.txt"))
    assert [item.state for item in remember(desk).items] == ["done", "unchanged"]


@pytest.mark.parametrize("what", ["document", "collection"])
def test_deleting_drops_memories_even_if_a_kill_comes_between(
    what: str, desk: SmallDesk, open_desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(desk)

    def delete(name: str) -> None:
        if what == "document":
            desk.delete_document(papers(desk), name)
        else:
            desk.delete_collection("papers")

    def killed() -> None:
        raise Killed

    if what == "document":
        delete("a.txt")
        assert len(folders(desk)) == 1
    monkeypatch.setattr(desk.memories, "sweep", killed)
    with pytest.raises(Killed):
        delete("b/c.txt")
    assert folders(desk)
    desk.close()
    another = open_desk()
    another.start("memory")
    assert folders(another) == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_document_that_goes_while_it_is_read_leaves_nothing_behind(replaced: bool, desk: SmallDesk) -> None:
    job_id = desk.remember(papers(desk), ["a.txt"], MemorySettings("none", SMALL))
    gone = False

    def going(done: int) -> None:
        nonlocal gone
        if done and not gone:
            gone = True
            ingest(desk, "a.txt", "New.") if replaced else desk.delete_document(papers(desk), "a.txt")

    reading(desk, job_id, going)
    assert gone and folders(desk) == []
    assert [(item.state, item.error) for item in get_job(desk.engine, job_id).items] == (
        [("cancelled", None)] if replaced else []
    )


def test_a_document_that_goes_at_the_last_moment_leaves_nothing_behind(
    desk: SmallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = desk.memories.place

    def placing(part: Path) -> None:
        kept = part.rename(desk.settings.data / "kept")
        desk.delete_document(papers(desk), "a.txt")
        part.parent.mkdir(parents=True)
        place(kept.rename(part))

    monkeypatch.setattr(desk.memories, "place", placing)
    assert remember(desk, "a.txt").state == "succeeded"
    assert folders(desk) == []


def test_memories_are_deleted_by_name_and_the_document_stays(desk: SmallDesk) -> None:
    remember(desk, "b/c.txt")
    document = get_document(desk.engine, papers(desk), "b/c.txt")
    desk.memories.drop(document)
    assert folders(desk) == []
    with pytest.raises(MemoryNotFound, match=r"'b/c\.txt' has no memory"):
        desk.memories.drop(document)
    assert get_document(desk.engine, papers(desk), "b/c.txt") == document


def test_a_kill_while_a_memory_is_deleted_leaves_nothing(desk: SmallDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    remember(desk, "a.txt")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", killed)
        desk.memories.drop(get_document(desk.engine, papers(desk), "a.txt"))
    assert desk.memories.list(papers(desk)) == []
    assert len(folders(desk)) == 1
    Remembering(desk).heal()
    assert folders(desk) == []


@pytest.mark.parametrize("content", [b"", b"no such thing"])
@pytest.mark.parametrize("file", ["card.json", "starts.npy", "far.bin"])
def test_a_damaged_memory_is_none_and_is_made_again(file: str, content: bytes, desk: SmallDesk) -> None:
    remember(desk, "a.txt")
    (folder,) = folders(desk)
    (folder / file).write_bytes(content)
    with pytest.raises(MemoryNotFound):
        desk.whole_documents(papers(desk), ["a.txt"], None)
    assert [item.state for item in remember(desk, "a.txt").items] == ["done"]
    desk.whole_documents(papers(desk), ["a.txt"], None)


def test_what_cannot_be_remembered_is_refused_by_name(desk: SmallDesk) -> None:
    for wanted, error, told in (
        (
            {"rate": 4.0, "keep": "locret"},
            InvalidOption,
            "keep is 'locret'; expected infinipot or auto, for there are no retaining heads for llama with no",
        ),
        ({"rate": 4.0, "keep": "best"}, InvalidOption, "keep is 'best'; expected one of auto, locret, infinipot"),
        ({"keep": "infinipot"}, InvalidOption, "keep is 'infinipot'; expected auto"),
        ({"near": 0}, InvalidOption, "near is 0"),
        ({"near": 600}, InvalidOption, "near is 600; expected 1 to 512, half of the model's window"),
        ({"window": 2000}, InvalidOption, r"window is 2000; expected 1 to \d+"),
        ({"layers": [1, 7]}, InvalidMemory, r"layers are \[1, 7\]; expected some of 0 to 2"),
    ):
        with pytest.raises(error, match=told):
            remember(desk, **wanted)
    with pytest.raises(UnknownDocument, match="nope"):
        remember(desk, "a.txt", "nope")
    assert folders(desk) == []
    desk.delete_collection("papers")
    desk.create_collection("papers")
    with pytest.raises(InvalidUpload, match="'papers' is empty"):
        remember(desk)


def test_a_memory_that_the_disk_has_no_room_for_is_refused(
    desk: SmallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(desk.settings.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**10))
    failed = remember(desk, "a.txt")
    assert (failed.state, folders(desk)) == ("failed", [])
    assert "the disk has 0 MiB left" in str(failed.items[0].error)
