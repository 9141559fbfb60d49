"""What the engine promises to many threads at once, in little memory, whatever they cancel."""

import random
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from threading import Event, Thread
from typing import Any

import pytest

from refdesk.memory.options import memory_options
from refdesk.reader.engine import Engine
from refdesk.reader.errors import InvalidOption, MemoryTooSmall, PromptTooLong
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.stream import Stream

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
BLOCK_BYTES = 16 * (2 * 16 * 4 + 12)
CEILING = 40 * 6 * BLOCK_BYTES  # 640 tokens; the largest requests below take 500
THREADS = 12
MEMORIES: list[dict[str, Any]] = [
    {},
    {},
    {"budget": 48, "protected": 16},
    {"rate": 2, "protected": 8},
    {"policy": "streaming", "budget": 40},
    {"policy": "snapkv", "budget": 64, "queries": 32},
    {"policy": "infinipot", "budget": 64},
    {"policy": "infinipot", "rate": 2, "novelty": 0},
    {"policy": "random", "budget": 64},
]


def mixed(count: int, seed: int) -> list[GenerationRequest]:
    """Requests of every kind. Their passages are of few, so that they meet."""
    rng = random.Random(seed)

    def text(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 256) for _ in range(rng.randint(least, most)))

    fronts, passages = [(), (first := text(18, 18),), (first, text(9, 9))], [text(20, 70) for _ in range(6)]
    memories = [memory_options(memory) for memory in MEMORIES]
    return [
        GenerationRequest(
            text(1, 20) if runs else text(1, 200),
            max_new_tokens=rng.randint(1, 40),
            stop=rng.choice([(), (), ("e", "zz")]),
            continuations=tuple(text(1, 9) for _ in range(rng.choice([0, 0, 1, 3]))),
            front=rng.choice(fronts),
            passages=tuple(rng.sample(passages, runs)),
            memory=(memory := rng.choice(memories)),
            catalyst=text(7, 7) if memory.policy is not None and memory.policy.catalyst != "none" else (),
        )
        for runs in (rng.choice([0, 0, 1, 3, 5]) for _ in range(count))
    ]


def idle_engine(engine: Engine) -> None:
    """Wait until it has nothing to do; nothing is lost then, and nothing held but by runs."""
    scheduler = engine._scheduler
    until = time.perf_counter() + 10
    while engine._arrived or not scheduler.idle or scheduler._in_work:
        assert time.perf_counter() < until, "the engine does not come to rest"
        time.sleep(0.005)
    time.sleep(0.02)  # the last step checks once more
    scheduler.check_integrity()
    assert scheduler._runs.idle_blocks == scheduler._runs.blocks
    assert engine.memory_used == scheduler._runs.blocks * BLOCK_BYTES


def same(found: Generation, expected: Generation) -> bool:
    return (found.token_ids, found.text, found.finish_reason, found.memory) == (
        (expected.token_ids, expected.text, expected.finish_reason, expected.memory)
    ) and all(
        one == pytest.approx(other, abs=1e-3)
        for one, other in zip(found.continuation_nll, expected.continuation_nll, strict=True)
    )


def alone(model: ReaderModel, requests: list[GenerationRequest]) -> list[Generation]:
    """Each on an engine that does nothing else and remembers nothing."""
    found = []
    for request in requests:
        with Engine(model, chunk_tokens=48, memory_bytes=CEILING) as engine:
            found.append(engine.submit(request).result(timeout_s=30))
    return found


def pieces(stream: Stream) -> Generator[str, None, None]:
    """As an answer is streamed: closing the iterator cancels."""
    try:
        yield from stream
    finally:
        stream.cancel()


def under_load(engine: Engine, jobs: list[tuple[int, GenerationRequest]], seed: int) -> list[tuple[int, Stream]]:
    """Submit from many threads, some of which cancel, hurry, or go away. Every stream has ended."""
    spoilt = random.Random(seed)
    manners = [spoilt.choice(["wait", "wait", "read", "cancel", "close", "hurry"]) for _ in jobs]
    patience = [spoilt.randint(0, 6) for _ in jobs]

    def client(index: int) -> tuple[int, Stream]:
        (which, request), manner = jobs[index], manners[index]
        if manner == "hurry":
            request = replace(request, deadline_s=0.01 + 0.05 * patience[index])
        stream = engine.submit(request)
        if manner == "cancel":
            for _, _ in zip(range(patience[index]), stream, strict=False):
                pass
            stream.cancel()
        elif manner == "close":
            with closing(pieces(stream)) as reader:
                for _, _ in zip(range(patience[index]), reader, strict=False):
                    pass
        elif manner == "read":
            assert "".join(stream) == stream.result(timeout_s=60).text
        stream.result(timeout_s=60)
        return which, stream

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(client, range(len(jobs))))


@pytest.mark.parametrize("seed", range(3))
def test_answers_under_load_are_those_of_an_idle_engine(seed: int, tiny: Tiny) -> None:
    model = tiny()
    requests = mixed(40, seed)
    expected = alone(model, requests)
    jobs = list(enumerate(requests)) * 3
    random.Random(seed).shuffle(jobs)
    whole = 0
    with Engine(model, chunk_tokens=48, memory_bytes=CEILING) as engine:
        for which, stream in under_load(engine, jobs, seed):
            found, reference = stream.result(), expected[which]
            if found.finish_reason in ("cancelled", "deadline"):
                assert found.token_ids == reference.token_ids[: len(found.token_ids)]
                # Text that might become a stop string is held back, and given out where it did not.
                assert found.text == reference.text[: len(found.text)] or requests[which].stop
            else:
                whole += 1
                assert same(found, reference)
        idle_engine(engine)
    assert whole > len(jobs) / 3


@pytest.mark.parametrize("seed", range(3))
def test_no_block_is_lost_whatever_is_cancelled(seed: int, tiny: Tiny) -> None:
    rng = random.Random(seed)
    with Engine(tiny(), chunk_tokens=16, memory_bytes=CEILING) as engine:
        for wave in range(6):
            streams = [engine.submit(request) for request in mixed(15, 100 * seed + wave)]
            for stream in rng.sample(streams, 13):
                time.sleep(rng.choice([0, 0, 0.001, 0.01]))
                stream.cancel()
            for stream in streams:
                stream.result(timeout_s=30)
            idle_engine(engine)


def test_memory_never_exceeds_the_ceiling_and_is_used_up_to_it(tiny: Tiny) -> None:
    seen, over = [0], Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(engine.memory_used)
            time.sleep(0.0005)

    jobs = list(enumerate(mixed(60, 7)))
    with Engine(tiny(), chunk_tokens=48, memory_bytes=CEILING) as engine:
        watcher = Thread(target=watch)
        watcher.start()
        ended = under_load(engine, jobs, 7)
        over.set()
        watcher.join()
    # Whoever was let in never lacked room: nobody's stream has ended with an error.
    assert all(stream.result().memory.peak_bytes <= CEILING for _, stream in ended)
    assert CEILING / 2 < max(seen) <= CEILING


@pytest.fixture
def endless(tiny: Tiny) -> ReaderModel:
    """A model that never ends by itself."""
    model = replace(tiny("llama", 8192))
    model.__dict__["end_ids"] = frozenset()
    return model


def test_a_request_that_does_not_fit_now_waits_and_one_that_never_fits_is_refused_with_the_numbers(
    endless: ReaderModel,
) -> None:
    large = GenerationRequest((5,) * 10, 600, temperature=0.8, seed=1)
    with Engine(endless, memory_bytes=CEILING) as engine:
        running = engine.submit(large)
        next(iter(running))
        waiting = engine.submit(replace(large, max_new_tokens=30))  # 40 tokens and 610 are more than 640
        small = engine.submit(replace(large, max_new_tokens=1, token_ids=(5,)))
        with pytest.raises(TimeoutError):
            waiting.result(timeout_s=0.1)
        assert not small.done  # nobody overtakes
        needed = 41 * 6 * BLOCK_BYTES
        with pytest.raises(
            MemoryTooSmall, match=f"{needed / 2**20:.1f} MiB.* {CEILING / 2**20:.1f} MiB"
        ) as caught:
            engine.submit(replace(large, max_new_tokens=631))
        assert (caught.value.needed, caught.value.ceiling) == (needed, CEILING)
        with pytest.raises(MemoryTooSmall):
            engine.submit(replace(large, passages=((5,) * 40,)))
        with pytest.raises(PromptTooLong):
            engine.submit(replace(large, max_new_tokens=8192))
        assert not running.done
        running.cancel()
        assert waiting.result(timeout_s=30).queue_s > 0.1
        assert small.result(timeout_s=30).finish_reason == "length"
        idle_engine(engine)


def test_a_policy_lets_in_what_would_not_fit_whole(endless: ReaderModel) -> None:
    request = GenerationRequest((5,) * 2000, 300)
    with Engine(endless, chunk_tokens=48, memory_bytes=CEILING) as engine:
        with pytest.raises(MemoryTooSmall):
            engine.submit(request)
        generation = engine.submit(replace(request, memory=memory_options(MEMORIES[4]))).result(timeout_s=30)
        assert generation.finish_reason == "length"
        assert generation.memory.peak_bytes <= CEILING
        idle_engine(engine)


@pytest.mark.parametrize("wrong", [-1, 10**6])
@pytest.mark.parametrize("where", ["token_ids", "front", "passages", "continuations"])
def test_a_token_that_the_model_does_not_know_is_named(where: str, wrong: int, tiny: Tiny) -> None:
    tokens: Any = (5, wrong) if where == "token_ids" else ((5,), (5, wrong))
    request = GenerationRequest(**{"token_ids": (5,), "max_new_tokens": 3, where: tokens})
    with Engine(tiny()) as engine, pytest.raises(InvalidOption) as caught:
        engine.submit(request)
    assert caught.value.value == wrong


def test_an_engine_closed_under_load_ends_every_stream(tiny: Tiny) -> None:
    engine = Engine(tiny(), chunk_tokens=48, memory_bytes=CEILING)
    streams = [engine.submit(request) for request in mixed(40, 9)]
    streams[3].result(timeout_s=30)
    engine.close()
    reasons = [stream.result(timeout_s=0).finish_reason for stream in streams]
    assert set(reasons) <= {"cancelled", "length", "stop"}
    assert "cancelled" in reasons
    assert engine.memory_used == engine._scheduler._runs.blocks * BLOCK_BYTES
    engine._scheduler.check_integrity()
