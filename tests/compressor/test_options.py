"""Compression options: what is wrong is named, and every size is a budget that can be used."""

from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.options import KEEP_EVERYTHING, CompressionOptions, compression_options
from refdesk.compressor.perception import PerceptionCompressor, PerceptionOptions
from refdesk.compressor.strategies import STRATEGIES, SegmentOptions
from tests.compressor.worlds import tools


def test_none_keeps_everything_and_so_does_nothing_asked() -> None:
    for asked in (None, {}, {"strategy": "none"}):
        assert compression_options(asked) == KEEP_EVERYTHING
    assert compression_options({"strategy": "auto"}) == CompressionOptions(auto=True) != KEEP_EVERYTHING
    for options in (KEEP_EVERYTHING, CompressionOptions(auto=True)):
        assert options.budget_for(12_345) == 12_345


def test_auto_may_be_given_a_size() -> None:
    assert compression_options({"strategy": "auto", "budget": 64}) == CompressionOptions(budget=64, auto=True)
    assert compression_options({"strategy": "auto", "rate": 4}).budget_for(1000) == 250


def test_a_budget_or_a_rate_alone_means_perception() -> None:
    assert compression_options({"budget": 600}) == CompressionOptions("perception", PerceptionOptions(), 600)
    assert compression_options({"rate": 4, "k1": 0}).settings == PerceptionOptions(k1=0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_can_be_asked_for_by_name(name: str) -> None:
    for size in ({"budget": 300}, {"rate": 4}):
        options = compression_options({"strategy": name, **size})
        assert type(options.compressor(tools())) is STRATEGIES[name]
        assert options.settings == STRATEGIES[name].option_type()


def test_the_options_of_a_strategy_reach_it() -> None:
    asked = {"strategy": "likelihood", "rate": 2, "segment": 50}
    assert compression_options(asked).compressor(tools()).options == SegmentOptions(50)
    assert type(CompressionOptions(auto=True).compressor(tools())) is PerceptionCompressor


def test_guiding_questions_of_a_question_go_where_some_are_asked_for() -> None:
    asked = compression_options({"rate": 2, "guiding": 2, "questions": ["Who?", "Where?"]})
    assert asked.settings == PerceptionOptions(guiding=2, questions=("Who?", "Where?"))
    assert asked.guided_by(("Why?",)).settings == PerceptionOptions(guiding=2, questions=("Why?",))
    assert asked.guided_by(()) == asked
    for other in ({"rate": 2}, {"strategy": "best", "rate": 2}, {"strategy": "auto"}, None):
        assert compression_options(other).guided_by(("Why?",)) == compression_options(other)


@given(st.integers(1, 100_000), st.floats(1, 1024))
def test_a_rate_divides_and_leaves_at_least_one_token(tokens: int, rate: float) -> None:
    budget = CompressionOptions("best", rate=rate).budget_for(tokens)
    assert 1 <= budget <= tokens
    assert budget == 1 or budget <= tokens / rate < budget + 1


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"strategy": "zip", "budget": 64}, "'zip'; expected one of none, auto, perception"),
        ({"strategy": None, "budget": 64}, "None"),
        ({"strategy": 7, "budget": 64}, "strategy is 7"),
        ({"strategy": ["best"], "budget": 64}, "best"),
        ({"strategy": "rerank"}, "rerank needs a budget or a rate"),
        ({"strategy": "perception", "belief": 1}, "perception needs a budget or a rate"),
        ({"ranked": False}, "perception needs a budget or a rate"),
        ({"strategy": "best", "budget": 64, "rate": 2}, "expected one of them"),
        ({"strategy": "likelihood", "segment": 9}, "needs a budget or a rate"),
        ({"strategy": "none", "budget": 64}, "budget"),
        ({"strategy": "none", "rate": 2}, "rate"),
        ({"strategy": "auto", "budget": 64, "rate": 2}, "expected one of them"),
        ({"strategy": "auto", "k1": 0.1}, "k1, but strategy auto has no options"),
        ({"strategy": "best", "budget": 64, "segment": 8}, "'segment' is unknown to best; known: none"),
        ({"budget": 64, "slope": 8}, "'slope' is unknown to perception; known: k1, tau_o"),
        ({"budget": 64, "segment": 8.0}, "segment is 8.0; expected a whole number"),
        ({"budget": 64, "segment": True}, "segment is True; expected a whole number"),
        ({"budget": 64, "k1": "steep"}, "k1 is 'steep'; expected a number"),
        ({"budget": 64, "k1": True}, "k1 is True; expected a number"),
        ({"budget": 64, "reverse": 1}, "reverse is 1; expected true or false"),
        ({"budget": 64, "k1": 1.5}, "k1 is 1.5; expected 0 to 1"),
        ({"budget": 64, "questions": "why?"}, "questions is 'why.'; expected a list of texts"),
        ({"budget": 64, "guiding": 1, "questions": ["why?", 7]}, "7.; expected a list of texts"),
        ({"budget": 64, "questions": ["why?"]}, "guiding is 0, but 1 questions are given"),
        ({"budget": 64.0}, "64.0"),
        ({"budget": "64"}, "'64'"),
        ({"budget": True}, "True"),
        ({"budget": 0}, "budget is 0"),
        ({"budget": 10**9}, "1000000000"),
        ({"rate": 0.5}, "0.5"),
        ({"rate": nan}, "nan"),
        ({"rate": inf}, "inf"),
        ({"rate": "4"}, "'4'"),
        ({"rate": True}, "True"),
    ],
)
def test_what_is_wrong_is_named(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidCompression, match=named):
        compression_options(asked)
