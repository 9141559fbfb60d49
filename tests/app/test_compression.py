"""Compression of passages on the way of a question, with every strategy, the real scorer and a tiny model."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from refdesk.app.compression import PassageCompression
from refdesk.compressor.compressor import Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.options import compression_options
from refdesk.compressor.strategies import STRATEGIES
from refdesk.memory.options import AS_NEEDED, KEEP_EVERYTHING, MemoryOptions
from refdesk.reader.engine import Engine
from refdesk.reader.errors import EngineClosed, PromptTooLong
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.qa import QA, Answer, AnswerOptions
from refdesk.reader.scoring import EngineScorer
from refdesk.reader.sentences import split_sentences
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
        self.scorer = EngineScorer(model, self.engine)

    def compression(self, asked: dict[str, Any]) -> PassageCompression:
        options = compression_options(asked)
        return PassageCompression(options, options.compressor(Tools(self.scorer, split=split_sentences)))

    def answer(
        self, passages: Sequence[Passage], memory: MemoryOptions = KEEP_EVERYTHING, new: int = 8, **asked: Any
    ) -> Answer:
        options = AnswerOptions(
            max_new_tokens=new, reading="together", memory=memory, shorten=self.compression(asked), stop=()
        )
        return QA(lambda question, k, documents: passages, self.model, self.engine).answer(QUESTION, options)

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


def test_a_passage_longer_than_the_window_is_no_obstacle_for_auto_and_refused_by_name(reader: Reader) -> None:
    passages = passages_of(60)
    answer = reader.answer(passages, memory=AS_NEEDED, strategy="auto")
    told = answer.usage.compression
    assert (told.strategy, told.tokens_before) == ("none", told.tokens_after)
    assert "nothing is taken out: the text in front takes" in told.reason
    assert answer.usage.memory_policy != "none"
    with pytest.raises(PromptTooLong, match="more than the model's window of 1024"):
        reader.answer(passages, memory=AS_NEEDED, strategy="perception", rate=4)


@pytest.mark.parametrize("room", [1, 0, -50])
def test_a_window_without_room_for_text_is_no_obstacle_for_auto_and_refused_by_name(
    room: int, reader: Reader
) -> None:
    passages = passages_of(1)
    left, told = reader.compression({"strategy": "auto"})(QUESTION, passages, room)
    assert left == passages
    assert "the titles of 3 passages leave the window no room" in told.reason
    with pytest.raises(InvalidCompression, match="the titles of 3 passages leave the window no room"):
        reader.compression({"strategy": "best", "rate": 2})(QUESTION, passages, room)


def test_a_budget_of_which_nothing_stays_is_refused_rather_than_answered_without_passages(reader: Reader) -> None:
    text = "中文" * 20  # each character is several tokens
    with pytest.raises(InvalidCompression, match="budget is 1, of which no token stays; expected more"):
        reader.answer([Passage("tokyo", "Tokyo", text, 0, len(text), 1.0)], strategy="rerank", budget=1)


def test_an_engine_that_is_closed_ends_it(reader: Reader) -> None:
    reader.engine.close()
    with pytest.raises(EngineClosed):
        reader.compression({"strategy": "auto", "budget": 20})(QUESTION, passages_of(1), 900)
