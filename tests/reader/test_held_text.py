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
        reading=reading,
        memory=memory_options(memory or {"policy": "none"}),
        heads=made_heads(),
        max_new_tokens=4,
        reference="in the hall",
    )
    with Engine(model, chunk_tokens=32) as engine:
        return QA(lambda *_: PASSAGES, model, engine).answer("where is the desk?", options)


@pytest.mark.parametrize("reading", ["together", "apart"])
@pytest.mark.parametrize("policy", ["locret", "locret_q", "kv_compress", "infinipot_q"])
def test_every_character_that_is_read_is_held_as_its_token_is(
    policy: str, reading: AskedReading, tiny: Tiny
) -> None:
    answer = answered(tiny(), {"policy": policy, "rate": 1}, reading)
    for passage, held in zip(answer.passages, answer.held, strict=True):
        assert {one.share for one in held} == {1.0}
        assert {one.document_id for one in held} == {passage.document_id}
        told = {place for one in held for place in range(one.start - passage.start, one.end - passage.start)}
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
    by_id = {held[0].document_id: [one.share for one in held] for held in answer.held}
    assert set(by_id.pop(whole)) == {1.0}
    (thinned,) = by_id.values()
    assert set(thinned) == {0.0, 1.0}
    assert thinned == sorted(thinned)  # what stands last stays


def test_where_no_policy_was_asked_for_nothing_is_told(tiny: Tiny) -> None:
    assert answered(tiny(), None, "together").held == ()


@pytest.mark.parametrize("reading", ["together", "apart"])
def test_every_token_is_told_with_its_own_share_at_its_place_in_the_source(
    reading: AskedReading, tiny: Tiny
) -> None:
    """Of a prompt by hand in which no two tokens are held alike; equal passages are told twice."""
    model = tiny()
    passages = (*PASSAGES, PASSAGES[0])
    prompt = build_prompt("where?", passages, model, 4, reading)
    shares = iter(np.linspace(0.001, 0.999, sum(map(len, prompt.passages)), dtype=np.float32).tolist())
    by_passage = [np.array([next(shares) for _ in tokens], np.float32) for tokens in prompt.passages]
    question = np.ones(len(prompt.question), np.float32)
    fronts = (0, len(prompt.system)) if reading == "together" else (0,)
    for front in fronts:
        whole = np.concatenate([np.ones(front, np.float32), *by_passage, question])
        told = held_text(prompt, (whole,) if reading == "together" else by_passage, model)
        assert len(told) == 3
        for passage, tokens, its, found in zip(passages, prompt.passages, by_passage, told, strict=True):
            read = passage.read.strip()
            ids = [int(np.flatnonzero(np.isclose(its, one.share))[0]) for one in found]
            assert ids == sorted(ids)
            assert ids[-1] < len(tokens)
            source = dict(enumerate(passage.text, passage.start))
            for index, one in zip(ids, found, strict=True):
                said = "".join(source[place] for place in range(one.start, one.end))
                decoded = model.tokenizer.decode(tokens[index])
                assert "\ufffd" in decoded or said.strip() in decoded
            joined = "".join(source[place] for one in found for place in range(one.start, one.end))
            assert set(read) <= set(joined)


def test_without_passages_nothing_is_told_in_any_reading(tiny: Tiny) -> None:
    options = AnswerOptions(
        reading="apart", memory=memory_options({"rate": 8}), max_new_tokens=4, reference="in the hall"
    )
    with Engine(tiny(), chunk_tokens=32) as engine:
        answer = QA(lambda *_: (), tiny(), engine, closed_book=True).answer("where is the desk?", options)
    assert answer.held == ()
    assert answer.reference_nll is not None
