"""What is held of the text of passages: told for the characters that the tokens are of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refdesk.memory.options import memory_options
from refdesk.reader.engine import Engine
from refdesk.reader.held_text import held_text
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import AskedReading, build_prompt
from refdesk.reader.qa import QA, Answer, AnswerOptions
from tests.reader.stepped import made_heads

Tiny = Callable[..., ReaderModel]
TEXT = "  The reference desk is in the hall. café 東京 🎉 and the passages say where it is."
PASSAGES = (
    Passage("one", "The hall", TEXT, 100, 100 + len(TEXT), 2.0),
    Passage("two", "A longer title", TEXT[:60], 0, 60, 1.0, kept=((2, 15), (20, 41))),
)


def answered(model: ReaderModel, memory: dict[str, Any] | None, reading: AskedReading) -> Answer:
    options = AnswerOptions(
        reading=reading, memory=memory_options(memory or {"policy": "none"}), heads=made_heads(), max_new_tokens=4
    )
    with Engine(model, chunk_tokens=32) as engine:
        return QA(lambda *_: PASSAGES, model, engine).answer("where is the desk?", options)


@pytest.mark.parametrize("reading", ["together", "apart"])
@pytest.mark.parametrize("policy", ["locret", "locret_q", "kv_compress", "infinipot_q"])
def test_every_character_that_is_read_is_held_as_its_token_is(
    policy: str, reading: AskedReading, tiny: Tiny
) -> None:
    answer = answered(tiny(), {"policy": policy, "rate": 1}, reading)
    assert {one.share for one in answer.held} == {1.0}
    for passage in answer.passages:
        told = {
            place
            for one in answer.held
            if one.document_id == passage.document_id
            for place in range(one.start - passage.start, one.end - passage.start)
        }
        assert told == {
            place
            for start, end in passage.ranges
            for place in range(start, end)
            if passage.text[:place].strip() or passage.text[place].strip()
        }


@pytest.mark.parametrize(("reading", "budget", "whole"), [("together", 60, "two"), ("apart", 24, "two")])
def test_what_was_evicted_is_told_token_by_token(
    reading: AskedReading, budget: int, whole: str, tiny: Tiny
) -> None:
    """Streaming keeps the same tokens in all layers and heads: the first, and the last."""
    answer = answered(tiny(), {"policy": "streaming", "budget": budget, "first": 4}, reading)
    thinned = [one.share for one in answer.held if one.document_id != whole]
    assert set(thinned) == {0.0, 1.0}
    assert thinned == sorted(thinned)  # what stands last stays
    assert {one.share for one in answer.held if one.document_id == whole} == {1.0}


def test_where_no_policy_was_asked_for_nothing_is_told(tiny: Tiny) -> None:
    assert answered(tiny(), None, "together").held == ()


def test_tokens_are_told_by_their_place_in_the_source(tiny: Tiny) -> None:
    """Of a prompt by hand, whose tokens are held the less the further back they stand."""
    model = tiny()
    prompt = build_prompt("where?", PASSAGES, model, 4, "together")
    lengths = [len(tokens) for tokens in prompt.passages]
    shares = np.concatenate(
        [np.linspace(1.0, 0.5, lengths[0], dtype=np.float32), np.full(lengths[1], 0.25, np.float32)]
    )
    whole = np.concatenate([shares, np.ones(len(prompt.question), np.float32)])
    for front in (0, len(prompt.system)):
        told = held_text(prompt, (np.concatenate([np.ones(front, np.float32), whole]),), model)
        first = [one for one in told if one.document_id == "one"]
        assert [one.start for one in first] == sorted(one.start for one in first)
        falling = [one.share for one in first]
        assert falling == sorted(falling, reverse=True)
        assert 0.5 <= min(falling) < max(falling) < 1.0
        assert {one.share for one in told if one.document_id == "two"} == {0.25}
