"""What the engine promises, on tiny real models."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from refdesk.memory.errors import UnsupportedAttention
from refdesk.memory.options import MemoryOptions
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import Entries
from refdesk.reader.engine import Engine
from refdesk.reader.errors import EngineClosed, InvalidOption, PromptTooLong
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
PROMPT = "Question: where is the desk? Title: The desk. The passages say: café 東京."


def encode(model: ReaderModel, text: str = PROMPT) -> tuple[int, ...]:
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))


def generated(model: ReaderModel, ids: tuple[int, ...], max_new_tokens: int) -> tuple[int, ...]:
    """The oracle: transformers' own greedy search."""
    prompt = torch.tensor([ids])
    output = model.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=max_new_tokens
    )
    return tuple(output[0, len(ids) :].tolist())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_greedy_equals_generate_alone_and_in_company_for_every_chunk_size(kind: str, tiny: Tiny) -> None:
    model = tiny(kind)
    generator = random.Random(kind)
    lengths = [1, 2, 300, *(generator.randint(1, 120) for _ in range(14))]
    prompts = [tuple(generator.randrange(3, model.vocabulary) for _ in range(length)) for length in lengths]
    expected = [generated(model, ids, 40) for ids in prompts]
    requests = [GenerationRequest(ids, max_new_tokens=40) for ids in prompts]
    for chunk_tokens in (1, 3, 7, 64, 512):
        with Engine(model, chunk_tokens=chunk_tokens) as engine:
            alone = [engine.submit(request).result().token_ids for request in requests]
            streams = [engine.submit(request) for request in requests]
            together = [stream.result().token_ids for stream in streams]
        assert alone == expected, chunk_tokens
        assert together == expected, chunk_tokens


def test_the_pieces_joined_are_the_text_and_hold_no_half_character(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        for seed in range(10):
            request = GenerationRequest(encode(model), 60, temperature=2.0, seed=seed)
            stream = engine.submit(request)
            pieces = list(stream)
            generation = stream.result()
            whole = model.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
            assert "".join(pieces) == generation.text
            assert all(pieces)
            assert generation.text == whole.rstrip("\ufffd")


def test_the_end_token_ends_the_generation_and_is_not_in_the_text(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        for seed in range(50):
            request = GenerationRequest(encode(model), 400, temperature=3.0, seed=seed)
            generation = engine.submit(request).result()
            if generation.finish_reason == "stop":
                break
    assert generation.finish_reason == "stop"
    assert generation.token_ids[-1] == model.tokenizer.eos_token_id
    assert generation.token_ids.count(model.tokenizer.eos_token_id) == 1
    assert "<|im_end|>" not in generation.text


def test_a_stop_string_over_several_tokens_is_never_handed_out(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        request = GenerationRequest(encode(model), 40, temperature=1.0, seed=5)
        full = engine.submit(request).result()
        tokens = [model.tokenizer.decode([token]) for token in full.token_ids]
        for start in range(3, 25):
            stop = full.text[start : start + 6]
            assert stop not in tokens
            stream = engine.submit(
                GenerationRequest(encode(model), 40, temperature=1.0, seed=5, stop=("never there", stop))
            )
            assert "".join(stream) == full.text[: full.text.index(stop)]
            assert stream.result().finish_reason == "stop"


def test_a_seed_reproduces_and_other_seeds_differ(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        texts = [
            engine.submit(GenerationRequest(encode(model), 30, 1.5, top_p=0.95, seed=seed)).result().text
            for seed in (1, 1, 2)
        ]
    assert texts[0] == texts[1] != texts[2]


def test_a_tiny_nucleus_is_greedy(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        nucleus = engine.submit(GenerationRequest(encode(model), 30, 1.0, top_p=1e-6, seed=1)).result()
        greedy = engine.submit(GenerationRequest(encode(model), 30)).result()
    assert nucleus.token_ids == greedy.token_ids


def test_the_cost_counts_every_layer_and_head(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model, chunk_tokens=7) as engine:
        generation = engine.submit(GenerationRequest(encode(model), 9)).result()
    assert generation.prompt_tokens == len(encode(model))
    assert generation.completion_tokens == len(generation.token_ids)
    held = generation.prompt_tokens + generation.completion_tokens - 1
    assert generation.memory.peak_entries == held * 3 * 2
    assert generation.memory.peak_bytes == -(-held // 16) * 6 * (16 * (2 * 16 * 4 + 12))
    assert min(generation.prefill_s, generation.decode_s) > 0


ROOM_FOR_ONE = 8 * 2**20  # a long request holds up to 6.6 MB


def long_request(model: ReaderModel, **options: Any) -> GenerationRequest:
    """One that takes seconds: sampled, so that it does not fall silent, in a window of 8192."""
    return GenerationRequest(encode(model), 8000, temperature=0.8, seed=1, **options)


@pytest.fixture
def endless(tiny: Tiny) -> ReaderModel:
    """A model that never ends by itself."""
    model = tiny("llama", 8192)
    endless = ReaderModel(model.model, model.tokenizer, model.name, model.window, model.fingerprint, model.dtype)
    endless.__dict__["end_ids"] = frozenset()
    return endless


def test_cancelling_ends_a_running_generation_and_the_next_one_starts(endless: ReaderModel) -> None:
    with Engine(endless) as engine:
        stream = engine.submit(long_request(endless))
        next(iter(stream))
        started = time.perf_counter()
        stream.cancel()
        stream.cancel()
        generation = stream.result(timeout_s=5)
        assert time.perf_counter() - started < 2
        assert generation.finish_reason == "cancelled"
        assert 0 < generation.completion_tokens < 8000
        assert engine.submit(GenerationRequest(encode(endless), 3)).result().finish_reason == "length"
        stream.cancel()
        assert stream.result() is generation


def test_cancelling_a_queued_request_ends_it_at_once(endless: ReaderModel) -> None:
    with Engine(endless, memory_bytes=ROOM_FOR_ONE) as engine:
        running = engine.submit(long_request(endless))
        queued = engine.submit(long_request(endless))
        queued.cancel()
        assert queued.result(timeout_s=5).finish_reason == "cancelled"
        assert list(queued) == []
        assert not running.done
        running.cancel()


def test_cancelling_is_noticed_between_two_chunks(endless: ReaderModel) -> None:
    with Engine(endless, chunk_tokens=1) as engine:
        stream = engine.submit(GenerationRequest(encode(endless) * 150, 5))
        time.sleep(0.05)
        stream.cancel()
        generation = stream.result(timeout_s=5)
    assert generation.finish_reason == "cancelled"
    assert generation.memory.peak_entries < len(encode(endless)) * 150 * 6


def test_a_deadline_ends_a_running_and_a_waiting_request(endless: ReaderModel) -> None:
    with Engine(endless, memory_bytes=ROOM_FOR_ONE) as engine:
        running = engine.submit(long_request(endless, deadline_s=0.6))
        waiting = engine.submit(long_request(endless, deadline_s=0.2))
        late = waiting.result(timeout_s=5)
        assert not running.done
        assert (late.finish_reason, late.text, late.memory.peak_entries) == ("deadline", "", 0)
        assert late.queue_s == pytest.approx(0.2, abs=0.3)
        generation = running.result(timeout_s=5)
        assert generation.finish_reason == "deadline"
        assert generation.text


@dataclass(frozen=True)
class Broken(Streaming):
    """A policy that somebody wrote badly."""

    def rank(self, entries: Entries, room: int) -> torch.Tensor:
        raise ZeroDivisionError


def test_an_error_reaches_the_reader_and_the_engine_serves_on(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        request = GenerationRequest(encode(model), 5, memory=MemoryOptions(Broken(), budget=16))
        broken = engine.submit(request)
        with pytest.raises(ZeroDivisionError):
            list(broken)
        with pytest.raises(ZeroDivisionError):
            broken.result()
        assert engine.memory_used == 0
        assert engine.submit(GenerationRequest(encode(model), 3)).result().completion_tokens == 3


def test_an_engine_that_cannot_go_on_tells_whoever_waits_and_gives_the_model_back(endless: ReaderModel) -> None:
    engine = Engine(endless)
    running, waiting = (engine.submit(long_request(endless)) for _ in range(2))
    next(iter(running))
    engine._scheduler._running.insert(0, None)  # type: ignore[arg-type]  # can neither go on nor be ended
    for stream in (running, waiting):
        with pytest.raises(EngineClosed, match="has ended"):
            stream.result(timeout_s=30)
    with pytest.raises(EngineClosed):
        engine.submit(long_request(endless))
    engine.close()
    with Engine(endless) as another:
        assert another.submit(GenerationRequest(encode(endless), 3)).result(timeout_s=30).completion_tokens == 3


def test_a_reader_that_stops_reading_does_not_hold_up_the_engine(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        abandoned = engine.submit(GenerationRequest(encode(model), 200))
        del abandoned
        assert engine.submit(GenerationRequest(encode(model), 3)).result(timeout_s=20).completion_tokens == 3


def test_closing_cancels_what_runs_and_waits_and_refuses_the_rest(endless: ReaderModel) -> None:
    engine = Engine(endless)
    streams = [engine.submit(long_request(endless)) for _ in range(3)]
    engine.close()
    engine.close()
    assert [stream.result(timeout_s=1).finish_reason for stream in streams] == ["cancelled"] * 3
    with pytest.raises(EngineClosed):
        engine.submit(long_request(endless))


def test_what_does_not_fit_the_window_is_refused_with_the_numbers(tiny: Tiny) -> None:
    model = tiny("llama", 512)
    with Engine(model) as engine, pytest.raises(PromptTooLong, match=r"300 tokens.* 213.* 512"):
        engine.submit(GenerationRequest((5,) * 300, 213))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("token_ids", ()),
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("stop", ("",)),
        ("stop", "text"),
        ("deadline_s", 0.0),
    ],
)
def test_an_impossible_option_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        GenerationRequest(**{"token_ids": (1,), option: value})  # type: ignore[arg-type]
    assert (caught.value.option, str(caught.value.value)) == (option, str(value))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("chunk_tokens", [3, 512])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_continuation_is_as_likely_as_one_plain_forward_says(kind: str, chunk_tokens: int, tiny: Tiny) -> None:
    model = tiny(kind)
    ids = encode(model)
    continuations = (encode(model, "in the hall"), encode(model, "x"))
    with Engine(model, chunk_tokens=chunk_tokens) as engine:
        generation = engine.submit(GenerationRequest(ids, 8, continuations=continuations)).result()
    assert len(generation.continuation_nll) == 2
    for continuation, found in zip(continuations, generation.continuation_nll, strict=True):
        logits = model.model(input_ids=torch.tensor([ids + continuation])).logits[0, len(ids) - 1 : -1]
        plain = -logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None])[:, 0]
        assert found == pytest.approx(plain.tolist(), abs=1e-4)


def test_asking_for_a_likelihood_changes_nothing_of_the_answer(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        plain = engine.submit(GenerationRequest(encode(model), 30)).result()
        asked = engine.submit(
            GenerationRequest(encode(model), 30, continuations=(encode(model, "the hall"),))
        ).result()
    assert asked.token_ids == plain.token_ids
    assert asked.memory == plain.memory


def test_a_continuation_that_does_not_fit_the_window_is_refused(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine, pytest.raises(PromptTooLong):
        engine.submit(GenerationRequest(encode(model), 1, continuations=((5,) * model.window,)))


def test_a_token_that_the_model_does_not_know_is_refused(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        for request in (GenerationRequest((5, 10**6)), GenerationRequest((5,), front=((-1,),))):
            with pytest.raises(InvalidOption, match=f"0 to {model.vocabulary - 1}"):
                engine.submit(request)


def test_a_model_of_another_kind_is_refused_and_left_as_it_was(tiny: Tiny) -> None:
    config = MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=2, state_size=4)
    config.num_attention_heads = 2
    model = replace(tiny(), model=MambaForCausalLM(config).eval())
    before = model.model.config._attn_implementation
    with pytest.raises((UnsupportedAttention, ValueError)):
        Engine(model)
    assert model.model.config._attn_implementation == before


def test_memory_for_less_than_a_token_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InvalidOption, match="memory_bytes is 1000; expected at least"):
        Engine(tiny(), memory_bytes=1000)


def test_an_empty_continuation_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InvalidOption, match="continuations"):
        GenerationRequest((1, 2), continuations=((),))


@pytest.mark.parametrize("ends", ["length", "stop"])
def test_an_answer_of_one_token_behind_continuations_of_one_ends_once(ends: str, tiny: Tiny) -> None:
    model = replace(tiny())
    request = GenerationRequest(encode(model), 1 if ends == "length" else 5)
    with Engine(model) as engine:
        first = engine.submit(request).result().token_ids[0]
    model.__dict__["end_ids"] = frozenset({first} if ends == "stop" else ())
    with Engine(model) as engine:
        beside = engine.submit(replace(request, max_new_tokens=200, temperature=2.0, seed=1))
        stream = engine.submit(replace(request, continuations=((5,), (9,))))
        assert beside.result(timeout_s=30).finish_reason in ("length", "stop")
        list(stream)
    generation = stream.result()
    assert (generation.token_ids, generation.finish_reason) == ((first,), ends)
    assert [len(nll) for nll in generation.continuation_nll] == [1, 1]
    assert generation.memory.held_entries == len(request.token_ids) * 6


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-7])
def test_a_temperature_close_to_0_is_greedy(temperature: float, tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        greedy = engine.submit(GenerationRequest(encode(model), 10)).result()
        sampled = engine.submit(GenerationRequest(encode(model), 10, temperature=temperature)).result(timeout_s=30)
    assert sampled.token_ids == greedy.token_ids


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_a_seed_of_more_than_64_bits_is_named(seed: int) -> None:
    with pytest.raises(InvalidOption, match=str(seed)):
        GenerationRequest((5,), temperature=1, seed=seed)


def test_a_model_that_an_engine_runs_is_refused_to_another(tiny: Tiny) -> None:
    model = tiny()
    with Engine(model) as engine:
        with pytest.raises(ValueError, match="another engine"):
            Engine(model)
        assert engine.submit(GenerationRequest(encode(model), 3)).result(timeout_s=30).completion_tokens
    with Engine(model) as engine:
        assert engine.submit(GenerationRequest(encode(model), 3)).result(timeout_s=30).completion_tokens
