"""Compression of passages on the way of a question, with every strategy, the real scorer and a tiny model."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from refdesk.app.compression import PassageCompression, embedded_similarity
from refdesk.compressor.compressor import Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.options import compression_options
from refdesk.compressor.ranking import question_losses, rank
from refdesk.compressor.strategies import STRATEGIES
from refdesk.memory.options import AS_NEEDED, KEEP_EVERYTHING, MemoryOptions
from refdesk.reader.cancellation import Cancellation
from refdesk.reader.engine import Engine
from refdesk.reader.errors import DeadlineExceeded, EngineClosed, PromptTooLong
from refdesk.reader.guiding import guiding_questions
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.qa import QA, Answer, AnswerOptions, Done, Retrieved
from refdesk.reader.scoring import EngineScorer
from refdesk.reader.sentences import split_sentences
from refdesk.reader.shortening import Shortening
from refdesk.reader.submission import Submit
from tests.conftest import WordEmbedder
from tests.reader.conftest import tiny, tokenizer

__all__ = ["tiny", "tokenizer"]

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTION = "Who designed the bridge?"
SENTENCES = (
    "The Harrow Tower was finished in 1911. It is 62 metres high, as café 東京 says. ",
    "The Harrow Bridge was designed by Elin Marsh. It crosses the river Tarn. ",
    "The market of Harrow opens on Saturdays at seven. ",
)


def passages_of(times: int) -> list[Passage]:
    texts = [sentence * times for sentence in SENTENCES]
    return [Passage(str(i), f"Title {i}", text, 7, 7 + len(text), 1.0) for i, text in enumerate(texts)]


class Reader:
    """A tiny model with its engine, asked over given passages."""

    def __init__(self, model: ReaderModel) -> None:
        self.model = model
        self.engine = Engine(model, chunk_tokens=64)
        self.scorer = EngineScorer(model, self.engine.submit)

    def compression(self, asked: dict[str, Any]) -> PassageCompression:
        def tools(submit: Submit) -> Tools:
            def guide(question: str, count: int) -> list[str]:
                return guiding_questions(question, count, self.model, submit)

            similarity = embedded_similarity(WordEmbedder)
            return Tools(EngineScorer(self.model, submit), guide, similarity, split_sentences)

        return PassageCompression(compression_options(asked), tools)

    def compressed(
        self, passages: Sequence[Passage], room: int, **asked: Any
    ) -> tuple[Sequence[Passage], Shortening]:
        return self.compression(asked)(QUESTION, passages, room, self.engine.submit)

    def qa(self, passages: Sequence[Passage]) -> QA:
        return QA(lambda question, k, documents: passages, self.model, self.engine)

    def answer(
        self, passages: Sequence[Passage], memory: MemoryOptions = KEEP_EVERYTHING, new: int = 8, **asked: Any
    ) -> Answer:
        options = AnswerOptions(
            max_new_tokens=new, reading="together", memory=memory, shorten=self.compression(asked), stop=()
        )
        return self.qa(passages).answer(QUESTION, options)

    def tokens(self, passages: Sequence[Passage]) -> int:
        """Those of the source whose characters are read: of one of several tokens, all."""
        count = 0
        for passage in passages:
            reading = False
            for start, end in self.scorer.tokens(passage.text)[1]:
                if start < end:
                    reading = any(first <= start < last for first, last in passage.ranges)
                count += reading
        return count


@pytest.fixture
def reader(tiny: Callable[..., ReaderModel]) -> Iterator[Reader]:
    reader = Reader(tiny("llama", 1024))
    yield reader
    reader.engine.close()


@pytest.mark.parametrize("size", [{"rate": 3}, {"budget": 61}, {"rate": 1}])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_stays_is_of_the_source_and_meets_the_budget_or_says_why_not(
    strategy: str, size: dict[str, int], reader: Reader
) -> None:
    passages = passages_of(3)
    answer = reader.answer(passages, strategy=strategy, **size)
    told, whole = answer.usage.compression, {passage.document_id: passage for passage in passages}
    assert (told.strategy, told.tokens_before) == (strategy, reader.tokens(passages))
    budget = size.get("budget") or told.tokens_before // size["rate"]
    assert 0 < told.tokens_after <= budget
    assert (told.tokens_after == budget) == (not told.reason)
    assert told.tokens_after == reader.tokens(answer.passages)
    assert answer.usage.passages_dropped == 0
    for passage in answer.passages:
        source = whole.pop(passage.document_id)
        assert (passage.text, passage.start, passage.title) == (source.text, source.start, source.title)
        assert all(one[1] < other[0] for one, other in pairwise(passage.ranges))
        assert all(start < end for start, end in passage.ranges)
    assert answer.usage.seconds["compress"] > 0


def test_the_same_question_gets_the_same_passages_warm_as_cold(reader: Reader) -> None:
    first, second = (reader.answer(passages_of(3), strategy="perception", rate=3) for _ in range(2))
    assert first.passages == second.passages
    assert first.text == second.text


@pytest.mark.parametrize("size", [{}, {"budget": 1000}, {"rate": 1}])
def test_auto_leaves_what_fits(size: dict[str, int], reader: Reader) -> None:
    passages = passages_of(2)
    answer = reader.answer(passages, strategy="auto", **size)
    told = answer.usage.compression
    assert answer.passages == tuple(passages)
    assert (told.strategy, told.reason) == ("none", "")
    assert told.tokens_before == told.tokens_after == reader.tokens(passages)


def test_auto_takes_out_what_a_budget_asks_for(reader: Reader) -> None:
    told = reader.answer(passages_of(3), strategy="auto", budget=80).usage.compression
    assert (told.strategy, told.tokens_after, told.reason) == ("perception", 80, "")


@pytest.mark.parametrize("strategy", ["auto", "rerank", "perplexity"])
@pytest.mark.parametrize("new", [700, 701, 702, 703, 704])
def test_what_does_not_fit_the_window_is_compressed_until_it_does(new: int, strategy: str, reader: Reader) -> None:
    size = {} if strategy == "auto" else {"rate": 1}
    usage = reader.answer(passages_of(3), new=new, strategy=strategy, **size).usage
    told = usage.compression
    assert told.tokens_after < told.tokens_before
    assert told.reason == f"the window has room for {told.tokens_after} tokens"
    assert (usage.passages_dropped, usage.memory_policy) == (0, "none")
    assert usage.prompt_tokens + new <= reader.model.window


def test_a_budget_that_the_window_cuts_down_is_told(reader: Reader) -> None:
    told = reader.answer(passages_of(3), new=500, strategy="best", budget=400).usage.compression
    assert told.tokens_after < 400
    assert "only the best text may stay" in told.reason
    assert "the window has room for" in told.reason


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_passages_longer_than_the_window_are_compressed_piece_by_piece(strategy: str, reader: Reader) -> None:
    passages = passages_of(60)
    whole = {"belief": 1} if strategy == "perception" else {}
    answer = reader.answer(passages, strategy=strategy, budget=150, **whole)
    told = answer.usage.compression
    assert told.tokens_before > 3 * reader.model.window
    assert (told.strategy, told.tokens_after) == (strategy, 150)
    assert told.tokens_after == reader.tokens(answer.passages)
    assert answer.usage.passages_dropped == 0


def test_auto_compresses_what_is_longer_than_the_window_to_what_it_has_room_for(reader: Reader) -> None:
    answer = reader.answer(passages_of(60)[1:2], memory=AS_NEEDED, strategy="auto")
    told = answer.usage.compression
    assert told.tokens_before > reader.model.window
    assert told.reason == f"the window has room for {told.tokens_after} tokens"
    assert (answer.usage.memory_policy, answer.usage.passages_used) == ("none", 1)


@pytest.mark.parametrize("room", [1, 0, -50])
def test_a_window_without_room_for_text_is_no_obstacle_for_auto_and_refused_by_name(
    room: int, reader: Reader
) -> None:
    passages = passages_of(1)
    left, told = reader.compressed(passages, room, strategy="auto")
    assert left == passages
    assert "the titles of 3 passages leave the window no room" in told.reason
    with pytest.raises(InvalidCompression, match="the titles of 3 passages leave the window no room"):
        reader.compressed(passages, room, strategy="best", rate=2)


def test_a_budget_of_which_nothing_stays_is_refused_rather_than_answered_without_passages(reader: Reader) -> None:
    text = "中文" * 20  # each character is several tokens
    with pytest.raises(InvalidCompression, match="budget is 1, of which no token stays; expected more"):
        reader.answer([Passage("tokyo", "Tokyo", text, 0, len(text), 1.0)], strategy="rerank", budget=1)


def test_an_engine_that_is_closed_ends_it(reader: Reader) -> None:
    reader.engine.close()
    with pytest.raises(EngineClosed):
        reader.compressed(passages_of(1), 900, strategy="auto", budget=20)


def test_a_question_too_long_to_be_asked_behind_a_piece_is_no_obstacle_for_auto_and_refused_by_name(
    reader: Reader,
) -> None:
    question, passages = "Who? " * 300, passages_of(60)
    left, told = reader.compression({"strategy": "auto"})(question, passages, 100, reader.engine.submit)
    assert left == passages
    assert "nothing is taken out: the text in front takes" in told.reason
    with pytest.raises(PromptTooLong, match="more than the model's window of 1024"):
        reader.compression({"strategy": "best", "rate": 4})(question, passages, 100, reader.engine.submit)


def test_given_questions_rank_beside_the_question_by_their_similarity(reader: Reader) -> None:
    passages, others = passages_of(6), ["Who is Elin Marsh?", "Where is the river?"]
    answer = reader.answer(passages, rate=1, guiding=2, questions=others, belief=1)
    weights = [1.0, *embedded_similarity(WordEmbedder)(QUESTION, others)]
    heads = [reader.scorer.tokens(f"Title: {passage.title}\n")[0] for passage in passages]
    texts = [head + reader.scorer.tokens(one.text)[0] for head, one in zip(heads, passages, strict=True)]
    expected = rank(question_losses(reader.scorer, texts, [QUESTION, *others], weights))
    assert [passage.document_id for passage in answer.passages] == [passages[i].document_id for i in expected]
    assert expected != rank(question_losses(reader.scorer, texts, [QUESTION]))


def test_making_guiding_questions_is_part_of_compression(reader: Reader) -> None:
    plain, guided = (reader.answer(passages_of(3), rate=3, guiding=guiding) for guiding in (0, 2))
    assert guided.usage.compression == plain.usage.compression
    assert guided.usage.seconds["compress"] > 0
    with pytest.raises(PromptTooLong):
        reader.compression({"rate": 3, "guiding": 16})("Who? " * 250, passages_of(1), 100, reader.engine.submit)


def slow(reader: Reader) -> AnswerOptions:
    """Compression that takes seconds: a segment of a few tokens after the other, of many."""
    return AnswerOptions(shorten=reader.compression({"rate": 2, "segment": 4, "belief": 1}), memory=AS_NEEDED)


def test_a_deadline_ends_compression(reader: Reader) -> None:
    started = time.perf_counter()
    with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
        reader.qa(passages_of(20)).answer(QUESTION, replace(slow(reader), deadline_s=0.3))
    assert time.perf_counter() - started < 1.5
    assert reader.answer(passages_of(1), strategy="best", rate=2).text  # the engine serves on


def test_an_answer_that_is_cancelled_while_its_passages_are_compressed_ends_so(reader: Reader) -> None:
    cancellation, passages = Cancellation(), passages_of(20)
    timer = threading.Timer(0.3, cancellation.cancel)
    timer.start()
    started = time.perf_counter()
    *events, done = reader.qa(passages).stream(QUESTION, slow(reader), cancellation)
    assert time.perf_counter() - started < 1.5
    assert events == [Retrieved(tuple(passages))]
    assert isinstance(done, Done)
    answer = done.answer
    assert (answer.text, answer.finish_reason, answer.passages) == ("", "cancelled", ())
    assert (answer.usage.passages_retrieved, answer.usage.prompt_tokens) == (3, 0)
    assert 0.2 < answer.usage.seconds["compress"] <= answer.usage.seconds["total"]


def test_an_answer_cancelled_before_it_began_is_not_compressed(reader: Reader) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    answer = reader.qa(passages_of(20)).answer(QUESTION, slow(reader), cancellation)
    assert answer.finish_reason == "cancelled"
