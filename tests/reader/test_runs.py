"""Runs and policies in company, one step at a time: the scheduler without its thread."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions, memory_options
from refdesk.reader.engine import Engine
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.job import Job
from refdesk.reader.model import ReaderModel
from tests.reader.in_line import plain_attention
from tests.reader.stepped import SLOTS, Stepped, ids, made_heads, stepped

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
Texts = tuple[tuple[int, ...], ...]
POLICIES: dict[str, dict[str, Any]] = {
    "none": {},
    "budget": {"policy": "kv_compress", "budget": 48, "protected": 16},
    "rate": {"policy": "kv_compress", "rate": 2, "protected": 8},
    "snapkv": {"policy": "snapkv", "budget": 64, "queries": 32},
    "streaming": {"policy": "streaming", "budget": 40},
    "random": {"policy": "random", "budget": 64, "seed": 3},
    "locret": {"policy": "locret", "budget": 60, "local": 8},
    "infinipot": {"policy": "infinipot", "budget": 50, "local": 8},
}
WHILE_READING = ("streaming", "locret", "infinipot")


PREFIX = ids(21, 100)
PASSAGES = (ids(50, 101), ids(33, 102), ids(64, 103))


def asked(
    seed: int, count: int = 120, memory: MemoryOptions = KEEP_EVERYTHING, **options: Any
) -> GenerationRequest:
    """With what its policy asks for."""
    policy = memory.policy
    needs: dict[str, Any] = {
        "max_new_tokens": 30,
        "continuations": (ids(5, seed + 1), ids(1, seed + 2)),
        "catalyst": ids(4, 104) if policy is not None and policy.catalyst != "none" else (),
        "heads": made_heads() if policy is not None and policy.learned else None,
    }
    return GenerationRequest(ids(count, seed), memory=memory, **{**needs, **options})


def company() -> list[GenerationRequest]:
    """Requests of every kind that begin, read and end at other times."""
    requests = [asked(20 + i, 7 + 29 * i, max_new_tokens=9 * i + 1) for i in range(4)]
    for i, options in enumerate(POLICIES.values()):
        memory = memory_options(options)
        requests.append(asked(40 + i, 60 + i, memory=memory, max_new_tokens=12))
        requests.append(asked(60 + i, 9, memory=memory, front=(PREFIX,), passages=PASSAGES[i % 3 :]))
    return requests


def same(found: Generation, expected: Generation) -> bool:
    return (found.token_ids, found.text, found.memory, found.finish_reason) == (
        (expected.token_ids, expected.text, expected.memory, expected.finish_reason)
    ) and all(
        one == pytest.approx(other, abs=1e-3)
        for one, other in zip(found.continuation_nll, expected.continuation_nll, strict=True)
    )


@pytest.mark.parametrize("with_passages", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_what_an_answer_is_depends_on_neither_company_nor_the_order_of_arrival(
    name: str, with_passages: bool, tiny: Tiny
) -> None:
    model, memory = tiny(), memory_options(POLICIES[name])
    runs: dict[str, Any] = {"front": (PREFIX,), "passages": PASSAGES} if with_passages else {}
    request = asked(7, memory=memory, **runs)
    with stepped(model) as alone:
        job = alone.add(request)
        alone.finish()
        expected = job.stream.result()
    others = company()
    for order in range(4):
        with stepped(model, tokens=(4000, 700)[order % 2]) as world:
            for other in others[order * 4 :]:
                world.add(other)
            world.step(order * 5)
            job = world.add(request)
            for other in reversed(others[: order * 4]):
                world.step(2)
                world.add(other)
            world.finish()
            assert same(job.stream.result(), expected), (order, job.stream.result(), expected)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in WHILE_READING])
def test_what_an_answer_is_does_not_depend_on_the_size_of_chunks(name: str, tiny: Tiny) -> None:
    """Where a policy evicts between them, it does."""
    model, memory = tiny(), memory_options(POLICIES[name])
    found = []
    for chunk_tokens in (1, 24, 33, 512):
        with stepped(model, chunk_tokens) as world:
            job = world.add(asked(9, memory=memory, front=(PREFIX,)))
            world.finish()
            found.append(job.stream.result())
    assert all(same(one, found[0]) for one in found)


@pytest.mark.parametrize("with_passages", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_what_was_held_and_freed_is_what_was_read(name: str, with_passages: bool, tiny: Tiny) -> None:
    model, memory = tiny(), memory_options(POLICIES[name])
    runs: dict[str, Any] = {"front": (PREFIX,), "passages": PASSAGES} if with_passages else {}
    request = asked(11, 140, memory=memory, **runs)
    with stepped(model) as world:
        job = world.add(request)
        world.finish()
        generation, block = job.stream.result(), world.pool.block_bytes
    use = generation.memory
    read = request.prompt_tokens + generation.completion_tokens - 1
    assert use.held_entries + use.freed_entries == read * SLOTS
    assert 0 < use.held_entries <= use.peak_entries <= read * SLOTS
    assert use.held_bytes <= use.peak_bytes
    assert (use.freed_entries > 0) == (memory.policy is not None)
    assert (use.freed_bytes > 0) == (use.freed_entries > 0)
    for entries, size in ((use.held_entries, use.held_bytes), (use.peak_entries, use.peak_bytes)):
        assert size % block == 0
        assert entries <= size // block * 16
    evictions = -(-140 // 24) + len(request.passages)  # each may free a block that was not full
    assert use.freed_bytes // block * 16 <= use.freed_entries + SLOTS * 16 * evictions


@pytest.mark.parametrize("chunk_tokens", [5, 24, 64])
def test_streaming_never_holds_more_than_its_budget_and_a_chunk_while_it_reads(
    chunk_tokens: int, tiny: Tiny
) -> None:
    memory, first = memory_options(POLICIES["streaming"]), 0
    with stepped(tiny(), chunk_tokens, tokens=40 + 64 + 3 * 16) as world:  # the prompt would not fit whole
        job = world.add(asked(13, 300, memory=memory, max_new_tokens=4, continuations=()))
        while not world.scheduler.idle:
            world.step()
            for sequence in job.sequences:
                first = max(first, int(sequence.entries.max()))
                assert len(sequence.own_ids()) <= SLOTS * (-(-(40 + chunk_tokens) // 16) + 1)
        use = job.stream.result().memory
    assert first <= 40 + 16  # between two steps; while it decodes a block more
    assert use.peak_entries <= (40 + chunk_tokens) * SLOTS
    assert use.held_entries + use.freed_entries == (300 + job.stream.result().completion_tokens - 1) * SLOTS


def test_a_window_larger_than_a_chunk_leaves_nothing_for_others_in_that_step(tiny: Tiny) -> None:
    memory = MemoryOptions(memory_options(POLICIES["snapkv"]).policy, budget=32)
    with stepped(tiny(), 8) as world:
        observed = world.add(asked(15, 33, memory=memory))
        other = world.add(asked(16, 50))
        world.finish()
        together = [observed.stream.result(), other.stream.result()]
        jobs = []
        for job in (observed, other):
            jobs.append(world.add(job.request))
            world.finish()
    assert all(same(one, job.stream.result()) for one, job in zip(together, jobs, strict=True))


def masked(model: ReaderModel, request: GenerationRequest, behind: tuple[int, ...]) -> torch.Tensor:
    """The oracle: logits of one plain forward in which no passage sees another and all stand behind the front, or
    in line for what is behind them all."""
    front = sum(request.front, ())
    stretches = [front, *request.passages, request.token_ids + behind]
    lengths = [len(passage) for passage in request.passages]
    start, after = len(front), sum(lengths) if request.in_line else max(lengths, default=0)
    firsts = [0, *(start for _ in request.passages), start + after]
    before = [sum(lengths[:index]) if request.in_line else 0 for index in range(len(lengths))]
    shifts = torch.tensor([by for by, one in zip([0, *before, 0], stretches, strict=True) for _ in one])
    tokens = [token for stretch in stretches for token in stretch]
    positions = [first + i for first, stretch in zip(firsts, stretches, strict=True) for i in range(len(stretch))]
    owner = torch.tensor([i for i, stretch in enumerate(stretches) for _ in stretch])
    last = len(stretches) - 1
    seen = (owner[:, None] == owner) | (owner[:, None] == last) | (owner[None, :] == 0)
    with plain_attention(model.model, seen & torch.ones_like(seen).tril(), shifts, owner == last):
        output = model.model(input_ids=torch.tensor([tokens]), position_ids=torch.tensor([positions]))
    logits: torch.Tensor = output.logits[0, -len(behind) - 1 :]
    return logits


@pytest.mark.parametrize("passages", [PASSAGES, PASSAGES[:1], ()])
@pytest.mark.parametrize("front", [(PREFIX,), (PREFIX[:1], PREFIX[1:9], PREFIX[9:]), ()])
@pytest.mark.parametrize("in_line", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_reading_apart_equals_masked_attention(
    kind: str, in_line: bool, front: Texts, passages: Texts, tiny: Tiny
) -> None:
    model = tiny(kind)
    request = asked(17, 25, max_new_tokens=12, front=front, passages=passages, in_line=in_line)
    expected: list[int] = []
    while len(expected) < 12 and not set(expected) & model.end_ids:
        expected.append(int(masked(model, request, tuple(expected))[-1].argmax()))
    with Engine(model, chunk_tokens=19) as engine:
        generation = engine.submit(request).result()
    assert list(generation.token_ids) == expected
    for continuation, found in zip(request.continuations, generation.continuation_nll, strict=True):
        logits = masked(model, request, continuation)[:-1].log_softmax(-1)
        nll = -logits.gather(1, torch.tensor(continuation)[:, None])[:, 0]
        assert found == pytest.approx(nll.tolist(), abs=1e-3)


def blocks(*stretches: tuple[int, ...]) -> int:
    return sum(SLOTS * -(-len(stretch) // 16) for stretch in stretches)


def test_eight_requests_over_the_same_passages_hold_their_blocks_once(tiny: Tiny) -> None:
    shared = blocks(PREFIX, *PASSAGES)
    questions = [asked(200 + i, 10, front=(PREFIX,), passages=PASSAGES, continuations=()) for i in range(8)]
    with stepped(tiny(), tokens=16 * (shared // SLOTS + 8 * 3)) as world:  # far less than eight times the passages
        jobs = [world.add(question) for question in questions]
        most = 0
        while not world.scheduler.idle:
            world.step()
            if all(job.sequences for job in jobs):
                own = sum(len(sequence.own_ids()) for job in jobs for sequence in job.sequences)
                assert world.run_blocks == shared
                assert world.pool.used == shared + own
                most = max(most, own)
        assert most >= 8 * SLOTS  # all eight at once
        generations = [job.stream.result() for job in jobs]
    assert [(one.run_hits, one.run_misses) for one in generations] == [(0, 4)] + [(4, 0)] * 7
    assert all(one.memory.peak_bytes >= shared * world.pool.block_bytes for one in generations)


def test_a_second_question_finds_its_passages_read(tiny: Tiny) -> None:
    first = asked(31, 10, front=(PREFIX,), passages=PASSAGES)
    second = asked(32, 10, front=(PREFIX,), passages=PASSAGES[::-1])
    with stepped(tiny()) as world:
        world.add(second)
        world.finish()
    with stepped(tiny()) as world:
        job = world.add(first)
        world.step(3)
        assert not job.sequences  # still reading passages
        world.finish()
        assert (job.stream.result().run_hits, job.stream.result().run_misses) == (0, 4)
        job = world.add(second)
        world.step()  # 10 tokens are one step
        assert max(sequence.position - sequence.start for sequence in job.sequences) >= 10
        world.finish()
        assert (job.stream.result().run_hits, job.stream.result().run_misses) == (4, 0)
        assert world.pool.used == world.run_blocks == blocks(PREFIX, *PASSAGES)


def test_passages_thinned_otherwise_are_other_runs(tiny: Tiny) -> None:
    with stepped(tiny()) as world:
        misses = []
        for memory in (KEEP_EVERYTHING, *map(memory_options, list(POLICIES.values())[1:])):
            job = world.add(asked(33, 10, memory, front=(PREFIX,), passages=PASSAGES))
            world.finish()
            misses.append(job.stream.result().run_misses)
    assert misses == [4, 3, 3, 3, 3, 3, 3, 3]  # the front is held whole by all


@pytest.mark.parametrize("steps", range(1, 8))
def test_cancelling_while_runs_are_being_read_frees_them_unless_others_wait(steps: int, tiny: Tiny) -> None:
    first = asked(34, 10, front=(PREFIX,), passages=PASSAGES)
    second = asked(35, 10, front=(PREFIX,), passages=PASSAGES)
    with stepped(tiny()) as world:
        alone = world.add(second)
        world.finish()
    with stepped(tiny()) as world:
        gone, stays = world.add(first), world.add(second)
        world.step(steps)
        used = world.pool.used
        gone.cancelled = True
        world.step()
        assert gone.stream.result().finish_reason == "cancelled"
        assert world.pool.used >= used
        assert same(_finished(world, stays), alone.stream.result())
    with stepped(tiny()) as world:
        jobs = [world.add(first), world.add(second)]
        world.step(steps)
        for job in jobs:
            job.cancelled = True
        world.step()
        assert world.scheduler.idle
        assert not world.scheduler._in_work
        assert world.pool.used == world.run_blocks  # of runs that were whole before
        assert same(_finished(world, world.add(second)), alone.stream.result())


def _finished(world: Stepped, job: Job) -> Generation:
    world.finish()
    return job.stream.result()


def test_idle_runs_give_way_to_requests_that_need_room(tiny: Tiny) -> None:
    with stepped(tiny(), tokens=450) as world:
        world.add(asked(36, 10, front=(PREFIX,), passages=PASSAGES))
        world.finish()
        assert world.run_blocks == blocks(PREFIX, *PASSAGES)
        job = world.add(asked(37, 410, max_new_tokens=20))
        world.step()
        assert job.sequences  # admitted at once: nobody uses the runs
        world.finish()
        assert job.stream.result().finish_reason in ("length", "stop")
        assert world.pool.used == world.run_blocks < blocks(PREFIX, *PASSAGES)


@pytest.mark.parametrize("name", ["snapkv", "random", "streaming", "rate", "locret", "infinipot"])
def test_the_budget_of_a_passage_is_not_for_what_stands_in_front_of_it(name: str, tiny: Tiny) -> None:
    held = []
    for front in ((), (PREFIX,)):
        request = asked(38, 9, memory=memory_options(POLICIES[name]), front=front, passages=(ids(300, 104),))
        with stepped(tiny()) as world:
            job = world.add(replace(request, max_new_tokens=1, continuations=()))
            world.finish()
            held.append(job.stream.result().memory.held_entries - SLOTS * sum(map(len, front)))
    assert held[0] == held[1]


def test_continuations_are_told_all_or_none_when_a_request_ends_among_them(tiny: Tiny) -> None:
    request = asked(77, 20)  # the second continuation, of one token, is scored before the first
    with stepped(tiny("llama")) as world:
        job = world.add(request)
        world.step()
        assert len(job._nll) == 1
        job.cancelled = True
        world.step()
    found = job.stream.result()
    assert found.finish_reason == "cancelled"
    assert found.continuation_nll == ()


def rows_of_logits(vocabulary: int) -> float:
    """All that is in memory, views and what they are views of."""
    rows = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.shape[-1:] == (vocabulary,)]
    stores = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in rows}
    return sum(stores.values()) / (4 * vocabulary)


def test_no_step_leaves_more_logits_behind_than_one_row_of_each_text_that_is_measured(tiny: Tiny) -> None:
    model = tiny()
    before = rows_of_logits(model.vocabulary)
    novel = memory_options(POLICIES["infinipot"])
    with stepped(model, 48) as world:
        scored = world.add(asked(35, 20, continuations=(ids(90, 36), ids(90, 37))))
        world.add(asked(38, 200, novel, continuations=()))
        most = 0.0
        while not scored.stream.done:
            world.step()
            most = max(most, rows_of_logits(model.vocabulary) - before)
    assert 0 < most <= 4  # behind the prompt, in each of two continuations, and in the text that is thinned


def test_passages_that_are_equal_are_read_and_counted_once(tiny: Tiny) -> None:
    with stepped(tiny()) as world:
        job = world.add(asked(39, 10, front=(PREFIX,), passages=(*PASSAGES, *PASSAGES[:2])))
        world.finish()
    told = job.stream.result()
    assert told.memory.held_entries == (told.prompt_tokens + told.completion_tokens - 1) * SLOTS
