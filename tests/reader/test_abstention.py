"""What is said where the answer cannot be found, and when."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import product
from math import exp

import pytest
import torch

from refdesk.reader.abstention import Abstention
from refdesk.reader.engine import Engine
from refdesk.reader.errors import InvalidOption
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
SAID = (7, 8, 9, 10)


def asked(model: ReaderModel, new: int = 12) -> GenerationRequest:
    ids = tuple(model.tokenizer.encode("Question: where is the desk?", add_special_tokens=False))
    return GenerationRequest(ids, new)


def row_behind(model: ReaderModel, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits by one plain forward of all of it."""
    return model.model(input_ids=torch.tensor([ids])).logits[0, -1].float()


def nll_of(model: ReaderModel, ids: tuple[int, ...], text: tuple[int, ...]) -> float:
    rows = [row_behind(model, ids + text[:place]).log_softmax(-1) for place in range(len(text))]
    return -sum(float(row[token]) for row, token in zip(rows, text, strict=True))


def tree(depth: int, words: int, seed: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """A language of so many words: logits behind everything that may have been said."""
    generator = torch.Generator().manual_seed(seed)
    rows = {
        said: torch.randn(words, generator=generator) * 2
        for length in range(depth)
        for said in product(range(words), repeat=length)
    }
    return rows.__getitem__


@pytest.mark.parametrize("opening", [(1,), (1, 2), (0, 0, 2)])
@pytest.mark.parametrize("seed", range(5))
def test_withholding_an_opening_is_to_speak_given_that_it_does_not_come(
    opening: tuple[int, ...], seed: int
) -> None:
    behind = tree(3, 3, seed)
    nll = [-float(behind(opening[:at]).log_softmax(-1)[word]) for at, word in enumerate(opening)]
    abstention = Abstention((*opening, 0), opening, 1)
    total = 0.0
    for said in product(range(3), repeat=3):
        plain = changed = 1.0
        for at, word in enumerate(said):
            row = behind(said[:at])
            plain *= float(row.softmax(-1)[word])
            changed *= float(abstention.withhold(row, said[:at], nll).softmax(-1)[word])
        if said[: len(opening)] == opening:
            assert changed == pytest.approx(0, abs=1e-6)
        else:
            assert changed == pytest.approx(plain / (1 - exp(-sum(nll))), rel=1e-4)
        total += changed
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("opening", [1, 2, 3])
def test_it_is_said_from_the_threshold_on_and_not_below(kind: str, opening: int, tiny: Tiny) -> None:
    model = tiny(kind)
    request = asked(model)
    said = (*generated(model, request.token_ids, opening), *SAID)  # likely enough to be weighed
    probability = exp(-nll_of(model, request.token_ids, said[:opening]))
    with Engine(model) as engine:
        for threshold, abstains in ((probability * 0.999, True), (min(probability * 1.001, 1), False)):
            abstention = Abstention(said, said[:opening], threshold)
            answer = engine.submit(replace(request, abstention=abstention)).result()
            assert (answer.token_ids == said) == abstains
            assert (answer.token_ids[:opening] == said[:opening]) == abstains
            assert answer.completion_tokens == len(answer.token_ids)
            if abstains:
                assert answer.finish_reason == "stop"
                assert answer.text == model.tokenizer.decode(said).rstrip("\ufffd")


def generated(model: ReaderModel, ids: tuple[int, ...], count: int, withheld: tuple[int, ...] = ()) -> list[int]:
    """The oracle: greedy, by plain forwards, with what `withheld` has of every probability taken away."""
    said: tuple[int, ...] = ()
    while len(said) < count:
        probabilities = row_behind(model, ids + said).softmax(-1).double()
        place = len(said)
        if place < len(withheld) and said == withheld[:place]:
            probabilities[withheld[place]] -= exp(-nll_of(model, ids + said, withheld[place:]))
        said = (*said, int(probabilities.argmax()))
    return list(said)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("chunk_tokens", [3, 512])
def test_never_to_abstain_is_greedy_without_what_abstaining_takes(
    kind: str, length: int, chunk_tokens: int, tiny: Tiny
) -> None:
    model = tiny(kind)
    request = asked(model)
    opening = tuple(generated(model, request.token_ids, length))
    with Engine(model, chunk_tokens=chunk_tokens) as engine:
        never = replace(request, abstention=Abstention((*opening, *SAID), opening, 1))
        alone = engine.submit(never).result()
        streams = [engine.submit(never) for _ in range(5)]
        answers = [alone, *(stream.result() for stream in streams)]
        scored = engine.submit(replace(never, continuations=((5, 6), (9,)))).result()
    expected = generated(model, request.token_ids, request.max_new_tokens, opening)
    assert [list(answer.token_ids) for answer in answers] == [expected] * 6
    assert list(scored.token_ids) == expected
    assert [len(nll) for nll in scored.continuation_nll] == [2, 1]


def test_what_is_unlikely_to_be_said_costs_and_changes_nothing(tiny: Tiny) -> None:
    model = tiny()
    request = asked(model)
    row = row_behind(model, request.token_ids)
    unlikely = int(row.argmin())
    abstention = Abstention((unlikely, *SAID), (unlikely, 7), 0.5)
    assert not abstention.matters(row, greedy=True)
    assert abstention.matters(row, greedy=False)
    with Engine(model) as engine:
        plain = engine.submit(request).result()
        answer = engine.submit(replace(request, abstention=abstention)).result()
    assert (answer.token_ids, answer.memory) == (plain.token_ids, plain.memory)


def test_no_sample_abstains_where_it_never_shall(tiny: Tiny) -> None:
    model = tiny()
    first = int(row_behind(model, asked(model).token_ids).argmax())
    with Engine(model) as engine:
        for seed in range(30):
            request = replace(asked(model, 3), temperature=1.0, seed=seed)
            answer = engine.submit(replace(request, abstention=Abstention((first,), (first,), 1))).result()
            assert answer.token_ids[0] != first


def test_at_the_threshold_1_not_even_a_sure_model_abstains(tiny: Tiny) -> None:
    model = replace(tiny(), model=deepcopy(tiny().model))  # others use it as it is
    request = asked(model)
    model.model.lm_head.weight.mul_(200)
    opening = tuple(generated(model, request.token_ids, 2))
    assert exp(-nll_of(model, request.token_ids, opening)) == 1
    with Engine(model) as engine:
        said = engine.submit(replace(request, abstention=Abstention((*opening, *SAID), opening, 0.999))).result()
        never = engine.submit(replace(request, abstention=Abstention((*opening, *SAID), opening, 1))).result()
    assert said.token_ids == (*opening, *SAID)
    assert never.token_ids[:2] != opening


def test_it_is_cut_where_the_answer_would_be(tiny: Tiny) -> None:
    model = tiny()
    request = asked(model, 2)
    first = int(row_behind(model, request.token_ids).argmax())
    with Engine(model) as engine:
        abstention = Abstention((first, *SAID), (first,), 1e-9)
        answer = engine.submit(replace(request, abstention=abstention)).result()
    assert (answer.token_ids, answer.finish_reason) == ((first, 7), "length")


@pytest.mark.parametrize("threshold", [0, -0.5, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(InvalidOption, match=f"abstain is {threshold}; expected more than 0 and at most 1"):
        Abstention((1, 2), (1,), threshold)


@pytest.mark.parametrize("opening", [(), (2,), (1, 2, 3)])
def test_an_opening_that_does_not_open_is_refused(opening: tuple[int, ...]) -> None:
    with pytest.raises(InvalidOption, match="opening"):
        Abstention((1, 2), opening, 0.5)
