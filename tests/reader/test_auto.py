"""How much is held of what is read where nothing is asked: by window, memory and budget."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from refdesk.memory.options import KEEP_EVERYTHING, memory_options
from refdesk.reader.engine import Engine
from refdesk.reader.errors import MemoryTooSmall, PromptTooLong
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import AskedReading
from refdesk.reader.qa import QA, AnswerOptions
from tests.reader.shelves import long_shelf, short_shelf, wide_shelf
from tests.reader.stepped import TOKEN_BYTES, made_heads


@pytest.mark.parametrize(
    ("shelf", "memory", "reading", "heads", "policy", "read"),
    [
        # Nothing asked: nothing is thinned that fits the window together, or else apart.
        (short_shelf, None, "auto", True, "none", "together"),
        (wide_shelf, None, "auto", True, "none", "apart"),
        (wide_shelf, None, "apart", True, "none", "apart"),
        (wide_shelf, None, "together", True, "locret_q", "together"),
        (wide_shelf, None, "together", False, "infinipot_q", "together"),
        (long_shelf, None, "auto", True, "locret_q", "together"),
        (long_shelf, None, "auto", False, "infinipot_q", "together"),
        (long_shelf, None, "apart", True, "locret", "apart"),
        (long_shelf, None, "apart", False, "infinipot", "apart"),
        # With a size: nor what is no more than that.
        (short_shelf, {"policy": "auto", "budget": 400}, "auto", True, "none", "together"),
        (short_shelf, {"policy": "auto", "rate": 1}, "auto", True, "none", "together"),
        (short_shelf, {"policy": "auto", "budget": 180}, "auto", True, "locret_q", "together"),
        (short_shelf, {"policy": "auto", "budget": 30}, "apart", False, "infinipot", "apart"),
        (long_shelf, {"policy": "auto", "budget": 250}, "auto", False, "infinipot_q", "together"),
        # What is asked for by name stands.
        (long_shelf, {"policy": "infinipot", "budget": 250}, "auto", True, "infinipot", "together"),
        (short_shelf, {"policy": "locret", "budget": 180}, "auto", True, "locret", "together"),
        (wide_shelf, {"policy": "none"}, "auto", True, "none", "apart"),
    ],
)
def test_auto_thins_what_does_not_fit_by_the_best_policy_there_is(
    shelf: Callable[..., Sequence[Passage]],
    memory: dict[str, Any] | None,
    reading: AskedReading,
    heads: bool,
    policy: str,
    read: str,
    tiny: Callable[..., ReaderModel],
) -> None:
    model = tiny("llama", 512)
    with Engine(model, chunk_tokens=64) as engine:
        options = AnswerOptions(
            max_new_tokens=20,
            reading=reading,
            memory=memory_options(memory),
            heads=made_heads() if heads else None,
        )
        answer = QA(shelf, model, engine).answer("Who designed the bridge?", options)
    usage = answer.usage
    assert (usage.memory_policy, usage.reading) == (policy, read)
    assert (usage.passages_dropped, usage.passages_used) == (0, usage.passages_retrieved)
    assert (usage.memory.freed_entries > 0) == (policy != "none")
    if policy != "none" and read == "together":
        budget = memory_options(memory).budget or 256
        assert usage.memory.peak_entries <= (budget + 64 + 30) * 6
        assert usage.memory.held_entries <= (budget + usage.completion_tokens) * 6


def test_who_asks_to_hold_everything_has_passages_dropped_or_is_refused(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 512)
    with Engine(model, chunk_tokens=64) as engine:
        qa = QA(long_shelf, model, engine)
        with pytest.raises(PromptTooLong):
            qa.answer("where?", AnswerOptions(memory=KEEP_EVERYTHING))
        options = AnswerOptions(max_new_tokens=100, reading="together", memory=KEEP_EVERYTHING)
        assert QA(wide_shelf, model, engine).answer("where?", options).usage.passages_dropped


def test_where_not_even_chunks_fit_passages_are_dropped_as_before(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 512)
    with Engine(model, chunk_tokens=512) as engine:
        options = AnswerOptions(max_new_tokens=100, reading="together")
        usage = QA(wide_shelf, model, engine).answer("where?", options).usage
    assert (usage.memory_policy, usage.passages_dropped > 0) == ("none", True)


def test_where_entries_cannot_be_moved_auto_leaves_them(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 512)
    with Engine(model, chunk_tokens=64) as engine:
        engine._pool.rotation = None
        for memory, policy in (({"policy": "auto", "budget": 120}, "kv_compress"), (None, "none")):
            options = AnswerOptions(max_new_tokens=5, memory=memory_options(memory), heads=made_heads())
            assert QA(short_shelf, model, engine).answer("who?", options).usage.memory_policy == policy
        with pytest.raises(PromptTooLong):
            QA(long_shelf, model, engine).answer("who?")


@pytest.mark.parametrize(("reading", "heads"), [("together", True), ("auto", True), ("auto", False)])
def test_auto_reads_within_the_memory_what_fits_the_window_but_not_that(
    reading: AskedReading, heads: bool, tiny: Callable[..., ReaderModel]
) -> None:
    model = tiny("llama", 4096)
    kept = made_heads() if heads else None
    with Engine(model, chunk_tokens=64, memory_bytes=512 * TOKEN_BYTES) as engine:
        qa = QA(wide_shelf, model, engine)
        assert engine.capacity == 512
        usage = qa.answer("where?", AnswerOptions(max_new_tokens=5, reading=reading, heads=kept)).usage
        assert (usage.passages_dropped, usage.memory_policy) != (0, "none")
        assert usage.prompt_tokens > 512 > usage.memory.peak_bytes / TOKEN_BYTES
        few = QA(short_shelf, model, engine)
        assert few.answer("where?", AnswerOptions(max_new_tokens=5, heads=kept)).usage.memory_policy == "none"
        most = AnswerOptions(max_new_tokens=5, reading=reading, heads=kept, memory=KEEP_EVERYTHING)
        with pytest.raises(MemoryTooSmall):
            qa.answer("where?", most)


def test_auto_reads_a_question_too_long_for_a_catalyst_all_the_same(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 4096)
    with Engine(model, chunk_tokens=64) as engine:
        qa = QA(long_shelf, model, engine)
        options = AnswerOptions(max_new_tokens=5, memory=memory_options({"policy": "auto", "budget": 1500}))
        usage = qa.answer("Who is it and where? " * 80, options).usage
        assert (usage.memory_policy, usage.passages_dropped) == ("infinipot", 0)
