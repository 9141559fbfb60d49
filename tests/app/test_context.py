"""What an answer stands on: passages or whole documents, and what goes with which."""

from typing import Any

import pytest

from refdesk.app.context import AnswerContext
from refdesk.app.memories import MemoryNotFound
from refdesk.compressor.options import compression_options
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import Looking, memory_options
from refdesk.reader.errors import InvalidOption
from refdesk.reader.qa import AnswerOptions
from refdesk.reader.whole_documents import looking_through
from tests.app.papers import NOTHING, SMALL, ask, desk, open_desk, papers, remember
from tests.eval.conftest import SmallDesk
from tests.reader.conftest import tiny, tokenizer

__all__ = ["desk", "open_desk", "tiny", "tokenizer"]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_has_no_effect_on_whole_documents_is_refused_by_name(desk: SmallDesk) -> None:
    context = AnswerContext("attended")
    for options, compression, told in (
        ({"memory": memory_options({"rate": 8})}, {}, "memory policy is 'kv_compress'; expected nothing"),
        ({"memory": memory_options({"policy": "auto", "budget": 99})}, {}, "memory policy is 'auto'"),
        ({"reading": "apart"}, {}, "reading is 'apart'; expected nothing, for context is 'attended'"),
        ({}, {"strategy": "best", "budget": 9}, "compression strategy is 'best'"),
        ({"documents": tuple("abcdefghi")}, {}, "documents is 9; expected 1 to 8"),
    ):
        with pytest.raises(InvalidOption, match=told):
            context.check(AnswerOptions(**options), compression_options(compression))
    context.check(AnswerOptions(memory=memory_options({"policy": "none"})), NOTHING)
    reading = AnswerContext("document")  # what is found is read, however that is asked for
    reading.check(AnswerOptions(reading="apart", memory=memory_options({"rate": 8})), NOTHING)
    with pytest.raises(InvalidOption, match="documents is 9; expected 1 to 8 of them with context 'document'"):
        reading.check(AnswerOptions(documents=tuple("abcdefghi")), NOTHING)
    for wrong, told in (
        ({"asked": "pages"}, "context is 'pages'; expected one of passages, document, attended, auto"),
        ({"entries": 9}, "entries is 9; expected nothing, for context is 'passages'"),
        ({"places": "true"}, "places is 'true'; expected nothing, for context is 'passages'"),
        ({"asked": "auto", "places": "near"}, "places is 'near'; expected one of clipped, scaled, true"),
        ({"asked": "auto", "entries": 0}, "entries is 0; expected 1 to 65536"),
        ({"asked": "auto", "entries": 100_000}, "entries is 100000; expected 1 to 65536"),
    ):
        with pytest.raises(InvalidOption, match=told):
            AnswerContext(**wrong)


def test_attending_to_whole_documents_takes_nothing_that_is_of_passages_alone(desk: SmallDesk) -> None:
    remember(desk, "a.txt")
    whole = desk.whole_documents(papers(desk), ["a.txt"], None, read=False)
    assert AnswerOptions(whole=whole, memory=memory_options({"policy": "none"})).of_passages_alone == {}
    for options, told in (
        ({"memory": memory_options({"rate": 8})}, "memory policy is 'kv_compress'; expected nothing, for whole"),
        ({"reading": "together"}, "reading is 'together'; expected nothing"),
        ({"shorten": desk.shortener(compression_options({"rate": 4}))}, "shorten is .*'perception'.*expected"),
    ):
        with pytest.raises(InvalidOption, match=told):
            AnswerOptions(whole=whole, **options)


def test_whole_documents_need_a_memory_where_they_are_asked_for_and_auto_takes_them_where_it_pays(
    desk: SmallDesk,
) -> None:
    def context_of(asked: str, **options: Any) -> str:
        return str(ask(desk, AnswerContext(asked), **options).usage.context)  # type: ignore[arg-type]

    named = {"documents": ("a.txt",)}
    with pytest.raises(MemoryNotFound, match=r"of 'a\.txt'"):
        context_of("document", documents=("a.txt",))
    with pytest.raises(MemoryNotFound, match=r"b/c\.txt"):
        context_of("document", k=40)
    assert context_of("auto", **named) == "passages"
    remember(desk, "a.txt")
    assert context_of("document", k=40) == "document"
    assert context_of("auto", **named) == "document"
    assert context_of("auto", **named, form="long") == "passages"
    assert context_of("auto") == "passages"
    assert context_of("auto", **named, k=40) == "passages"
    assert context_of("auto", documents=("a.txt", "b/c.txt")) == "passages"
    assert context_of("auto", **named, reading="apart") == "document"
    assert context_of("auto", **named, shorten=desk.shortener(compression_options({"rate": 4}))) == "document"
    assert context_of("passages", **named) == "passages"


def test_an_empty_collection_has_nothing_to_attend_to(desk: SmallDesk) -> None:
    for name in ("a.txt", "b/c.txt"):
        desk.delete_document(papers(desk), name)
    for asked in ("document", "attended"):
        assert ask(desk, AnswerContext(asked)).finish_reason == "no_passages"


def test_where_what_is_attended_to_stands_can_be_asked_for(desk: SmallDesk) -> None:
    job = remember(desk, "a.txt")
    window = desk.reader[0].window
    for places, width in (("clipped", SMALL["near"] + 1), ("scaled", window * 3 // 4)):
        context = AnswerContext("attended", places=places)
        chosen = context.chosen(desk, "papers", "What?", AnswerOptions(documents=("a.txt",)))
        assert chosen.whole is not None
        assert (chosen.whole.recall.places, chosen.whole.recall.width) == (places, width)
        assert ask(desk, context, documents=("a.txt",)).passages
    told = f"places is 'true', but a document takes {job.total} tokens and the model's window is {window}"
    with pytest.raises(InvalidMemory, match=told):
        ask(desk, AnswerContext("attended", places="true"), documents=("a.txt",))
    memories = desk.whole_documents(papers(desk), ["a.txt"], None).recall.memories
    assert looking_through(memories, Looking(places="true"), None, job.total + 1).width == job.total
