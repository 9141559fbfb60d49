"""From a question to a cited answer, on a tiny real model and on the default one."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions, memory_options
from refdesk.reader.answer_form import NOT_FOUND, AnswerForm
from refdesk.reader.engine import Engine
from refdesk.reader.errors import (
    DeadlineExceeded,
    EngineClosed,
    InvalidOption,
    MemoryTooSmall,
    PromptTooLong,
    ReaderError,
)
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import AskedReading, build_prompt
from refdesk.reader.qa import NOTHING_FOUND, QA, AnswerOptions, Done, Retrieved, Token
from refdesk.reader.shortening import READ_WHOLE, Shortening
from refdesk.reader.submission import Submit
from tests.reader.shelves import TEXTS, Shelf, wide_shelf
from tests.reader.stepped import TOKEN_BYTES


@pytest.fixture
def model(tiny: Callable[..., ReaderModel]) -> ReaderModel:
    return tiny("llama", 8192)


@pytest.fixture
def engine(model: ReaderModel) -> Iterator[Engine]:
    with Engine(model) as engine:
        yield engine


@pytest.fixture
def qa(model: ReaderModel, engine: Engine) -> QA:
    return QA(Shelf(), model, engine)


def test_events_come_in_order_and_the_tokens_are_the_answer(qa: QA) -> None:
    events = list(qa.stream("where is it?", AnswerOptions(k=2, max_new_tokens=20)))
    assert isinstance(events[0], Retrieved)
    assert isinstance(events[-1], Done)
    tokens = [event for event in events[1:-1] if isinstance(event, Token)]
    assert len(tokens) == len(events) - 2
    answer = events[-1].answer
    assert "".join(token.text for token in tokens).strip() == answer.text
    assert answer.passages == events[0].passages
    assert answer == replace(qa.answer("where is it?", AnswerOptions(k=2, max_new_tokens=20)), usage=answer.usage)


def test_the_answer_says_what_it_cost(qa: QA) -> None:
    started = time.perf_counter()
    usage = qa.answer("where is it?", AnswerOptions(k=3, max_new_tokens=20)).usage
    elapsed = time.perf_counter() - started
    assert (usage.passages_retrieved, usage.passages_used, usage.passages_dropped) == (3, 3, 0)
    assert usage.prompt_tokens > 100
    assert 0 < usage.completion_tokens <= 20
    assert usage.memory.peak_entries == (usage.prompt_tokens + usage.completion_tokens - 1) * 3 * 2
    assert set(usage.seconds) == {
        *("retrieve", "compress", "prompt", "queue", "prefill", "decode", "cite"),
        "total",
    }
    steps = sum(seconds for step, seconds in usage.seconds.items() if step != "total")
    assert 0.5 * usage.seconds["total"] < steps <= usage.seconds["total"] <= elapsed


def test_options_reach_the_retrieval_and_the_engine(model: ReaderModel, engine: Engine) -> None:
    shelf = Shelf()
    qa = QA(shelf, model, engine)
    answer = qa.answer("q?", AnswerOptions(k=7, max_new_tokens=3, documents=("market", "tower")))
    assert shelf.asked == [("q?", 7, ("market", "tower"))]
    assert {passage.document_id for passage in answer.passages} == {"market", "tower"}
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", 3)
    sampled = AnswerOptions(max_new_tokens=20, temperature=1.5, seed=4)
    assert qa.answer("q?", sampled).text == qa.answer("q?", sampled).text
    assert qa.answer("q?", sampled).text != qa.answer("q?", replace(sampled, seed=5)).text


def test_passages_that_do_not_fit_are_counted(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 512)
    with Engine(model) as engine:
        options = AnswerOptions(max_new_tokens=250, reading="together", memory=KEEP_EVERYTHING)
        answer = QA(Shelf(), model, engine).answer("where?", options)
    assert answer.usage.passages_dropped > 0
    assert answer.usage.passages_used == len(answer.passages) == 3 - answer.usage.passages_dropped


def test_a_budget_that_the_instructions_use_up_is_refused_before_any_event(qa: QA) -> None:
    memory = MemoryOptions(memory_options({"policy": "infinipot", "budget": 90}).policy, budget=90)
    with pytest.raises(InvalidMemory, match="budget is 90; expected at least"):
        next(qa.stream("where?", AnswerOptions(memory=memory)))


def test_what_the_engine_refuses_is_refused_before_any_event(tiny: Callable[..., ReaderModel]) -> None:
    model = tiny("llama", 4096)
    with Engine(model, chunk_tokens=64, memory_bytes=512 * TOKEN_BYTES) as engine:
        qa = QA(wide_shelf, model, engine)
        untrained = AnswerOptions(memory=memory_options({"policy": "locret", "budget": 200}))
        for options, error in (
            (AnswerOptions(memory=KEEP_EVERYTHING), MemoryTooSmall),
            (untrained, InvalidOption),
        ):
            with pytest.raises(error):
                next(qa.stream("where?", options))
    with pytest.raises(EngineClosed):
        next(qa.stream("where?"))


def test_without_passages_no_model_time_is_spent(model: ReaderModel, engine: Engine) -> None:
    qa = QA(lambda question, k, documents: [], model, engine)
    events = list(qa.stream("where is it?"))
    answer = qa.answer("where is it?")
    assert [type(event) for event in events] == [Retrieved, Token, Done]
    assert (answer.text, answer.finish_reason, answer.citations) == (NOTHING_FOUND, "no_passages", ())
    assert answer.usage.prompt_tokens == answer.usage.memory.peak_bytes == 0


def test_closing_the_stream_cancels_the_generation(qa: QA, engine: Engine) -> None:
    events = qa.stream("where is it?", AnswerOptions(max_new_tokens=4000, temperature=0.8, seed=2))
    next(events)
    assert isinstance(next(events), Token)
    started = time.perf_counter()
    events.close()  # type: ignore[attr-defined]
    engine.submit(GenerationRequest((5, 6), 1)).result(timeout_s=10)
    assert time.perf_counter() - started < 3


def test_a_deadline_before_the_first_word_is_an_error(model: ReaderModel, engine: Engine) -> None:
    def slow(question: str, k: int, documents: tuple[str, ...] | None) -> Sequence[Passage]:
        time.sleep(0.05)
        return Shelf()(question, k, documents)

    with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
        QA(slow, model, engine).answer("where?", AnswerOptions(deadline_s=0.02))


@pytest.mark.parametrize("question", ["", "  \n\t "])
def test_a_question_without_a_word_is_refused_before_any_work(question: str, qa: QA) -> None:
    with pytest.raises(InvalidOption, match="question"):
        qa.stream(question)


def test_a_question_longer_than_the_window_is_refused(qa: QA) -> None:
    with pytest.raises(PromptTooLong):
        qa.answer("why? " * 8000)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("k", 0, "1 to 100"),
        ("k", 101, "1 to 100"),
        ("max_new_tokens", 0, "1 to 4096"),
        ("documents", (), "at least one"),
        ("temperature", 9.0, "0"),
        ("deadline_s", -1.0, "more than 0"),
        ("abstain", 0.0, "more than 0 and at most 1"),
    ],
)
def test_an_impossible_option_is_refused_with_value_and_range(option: str, value: object, expected: str) -> None:
    with pytest.raises(InvalidOption, match=expected) as caught:
        AnswerOptions(**{option: value})  # type: ignore[arg-type]
    assert (caught.value.option, caught.value.value) == (option, value)
    assert isinstance(caught.value, ReaderError)


@pytest.mark.models
def test_the_default_model_answers_from_the_passages_and_cites(
    default_model: tuple[ReaderModel, Path, list[str]],
) -> None:
    model = default_model[0]
    with Engine(model) as engine:
        answer = QA(Shelf(), model, engine).answer("Who designed the Harrow Bridge?", AnswerOptions())
    assert "Elin Marsh" in answer.text
    assert answer.finish_reason == "stop"
    assert answer.citations[0].document_id == "bridge"
    assert answer.citations[0].quote == "The Harrow Bridge was designed by Elin Marsh."


def test_a_reference_is_measured_and_changes_nothing_of_the_answer(qa: QA, model: ReaderModel) -> None:
    plain = qa.answer("where is it?", AnswerOptions(max_new_tokens=10))
    asked = qa.answer("where is it?", AnswerOptions(max_new_tokens=10, reference="in the hall"))
    assert plain.reference_nll is None
    assert asked.reference_nll is not None
    assert asked.reference_nll > 0
    assert (asked.text, asked.citations) == (plain.text, plain.citations)


@pytest.mark.parametrize("form", ["short", "long", "quote"])
def test_with_a_threshold_of_next_to_nothing_it_always_abstains(form: AnswerForm, qa: QA) -> None:
    options = AnswerOptions(max_new_tokens=80, form=form, abstain=1e-300, reference="in the hall")
    answer = qa.answer("where is it?", options)
    assert (answer.text, answer.citations, answer.finish_reason) == (NOT_FOUND, (), "stop")
    assert answer.well_formed
    assert answer.reference_nll == qa.answer("where is it?", replace(options, abstain=None)).reference_nll
    pieces = [event.text for event in qa.stream("where?", options) if isinstance(event, Token)]
    assert "".join(pieces) == NOT_FOUND
    cut = qa.answer("where is it?", replace(options, max_new_tokens=3))
    assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 3)


def test_a_short_answer_has_room_to_abstain_where_the_window_is_full(
    qa: QA, tiny: Callable[..., ReaderModel]
) -> None:
    options = AnswerOptions(max_new_tokens=1, form="quote", reading="together", memory=KEEP_EVERYTHING)
    full = tiny("llama", qa.answer("where is it?", options).usage.prompt_tokens + 1)
    with Engine(full) as engine:
        asked = [
            QA(Shelf(), full, engine).answer("where is it?", replace(options, abstain=p)) for p in (None, 0.5)
        ]
    assert [answer.usage.passages_dropped for answer in asked] == [0, 1]


def test_closed_book_there_is_nothing_to_find_it_in(model: ReaderModel, engine: Engine) -> None:
    qa = QA(lambda question, k, documents: (), model, engine, closed_book=True)
    options = AnswerOptions(max_new_tokens=5)
    assert qa.answer("where?", replace(options, abstain=1e-300)).text == qa.answer("where?", options).text


def test_closed_book_asks_the_model_itself(model: ReaderModel, engine: Engine) -> None:
    def nothing(question: str, k: int, documents: tuple[str, ...] | None) -> Sequence[Passage]:
        return ()

    options = AnswerOptions(max_new_tokens=5, reference="in the hall")
    answer = QA(nothing, model, engine, closed_book=True).answer("where is it?", options)
    assert (answer.passages, answer.citations) == ((), ())
    assert answer.usage.prompt_tokens > 0
    assert answer.reference_nll is not None
    assert QA(nothing, model, engine).answer("where is it?", options).finish_reason == "no_passages"


class FirstSentences:
    """Leaves the first sentence of each passage, without its second word, the last passage first; remembers what
    room there was."""

    told = Shortening("first", 60, 30, "a sentence stays whole")

    def __call__(
        self, question: str, passages: Sequence[Passage], room: int, submit: Submit
    ) -> tuple[Sequence[Passage], Shortening]:
        self.room = room
        time.sleep(0.05)
        kept = [((0, one.text.index(" ")), (one.text.index(" ", 4), one.text.index(".") + 1)) for one in passages]
        return [replace(one, kept=ranges) for one, ranges in zip(passages, kept, strict=True)][::-1], self.told


@pytest.mark.parametrize("reading", ["together", "apart"])
def test_what_makes_passages_shorter_decides_what_is_read(reading: AskedReading, qa: QA) -> None:
    shorten = FirstSentences()
    options = AnswerOptions(max_new_tokens=5, reading=reading)
    whole = qa.answer("where is it?", options)
    events = list(qa.stream("where is it?", replace(options, shorten=shorten)))
    assert isinstance(events[0], Retrieved)
    assert isinstance(events[-1], Done)
    assert events[0].passages == whole.passages
    answer = events[-1].answer
    assert [passage.document_id for passage in answer.passages] == ["market", "bridge", "tower"]
    assert answer.passages[2].read == "The Tower was finished in 1911."
    assert answer.usage.compression == shorten.told
    assert answer.usage.seconds["total"] > answer.usage.seconds["compress"] >= 0.05
    assert answer.usage.prompt_tokens < whole.usage.prompt_tokens
    assert (answer.usage.passages_retrieved, answer.usage.passages_dropped) == (3, 0)


def test_the_room_for_text_is_what_prompt_titles_and_answer_leave_of_the_window(
    qa: QA, model: ReaderModel
) -> None:
    shorten = FirstSentences()
    qa.answer(
        "where is it?", AnswerOptions(max_new_tokens=5, shorten=shorten, reference="in the hall of the desk")
    )
    bare = [replace(passage, kept=()) for passage in Shelf()("", 3, None)]
    reference = len(model.tokenizer.encode("in the hall of the desk"))
    assert reference > 5
    assert shorten.room == model.window - reference - build_prompt("where is it?", bare, model, 5).tokens


def test_without_anything_that_shortens_passages_are_read_whole(qa: QA) -> None:
    answer = qa.answer("where is it?", AnswerOptions(max_new_tokens=5))
    assert answer.usage.compression == READ_WHOLE
    assert [passage.kept for passage in answer.passages] == [None] * 3


def test_where_nothing_is_found_nothing_is_shortened(model: ReaderModel, engine: Engine) -> None:
    shorten = FirstSentences()
    for closed_book in (False, True):
        qa = QA(lambda question, k, documents: [], model, engine, closed_book=closed_book)
        answer = qa.answer("where is it?", AnswerOptions(max_new_tokens=5, shorten=shorten))
        assert answer.usage.compression == READ_WHOLE
    assert not hasattr(shorten, "room")


@pytest.mark.models
def test_citations_of_what_was_read_in_part_are_exact_stretches_of_the_source(
    default_model: tuple[ReaderModel, Path, list[str]],
) -> None:
    model = default_model[0]
    with Engine(model) as engine:
        options = AnswerOptions(shorten=FirstSentences())
        answer = QA(Shelf(), model, engine).answer("Who designed the Harrow Bridge?", options)
    assert "Elin Marsh" in answer.text
    assert answer.citations[0].document_id == "bridge"
    for citation in answer.citations:
        assert TEXTS[citation.document_id][citation.start : citation.end] == citation.quote


@pytest.mark.parametrize(("form", "room"), [("short", 64), ("long", 256), ("quote", 160)])
def test_an_answer_has_the_room_that_its_form_needs_unless_told(form: AnswerForm, room: int) -> None:
    assert AnswerOptions(form=form).room == room
    assert AnswerOptions(form=form, max_new_tokens=7).room == 7
