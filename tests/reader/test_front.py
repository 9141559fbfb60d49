"""Texts in front, each a run behind the others: cut in any way, they are the same text."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from refdesk.memory.options import memory_options
from refdesk.reader.errors import InvalidOption
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from tests.reader.stepped import SLOTS, Stepped, ids, stepped
from tests.reader.test_runs import PASSAGES, POLICIES, Texts, asked, company

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
FRONT = ids(50, 300)


def cut(*places: int) -> Texts:
    """The front in pieces."""
    return tuple(FRONT[start:end] for start, end in pairwise((0, *places, len(FRONT))))


CUTS = [cut(*sorted(random.Random(count).sample(range(1, len(FRONT)), count))) for count in (1, 2, 5, 49)]


def check_chains(world: Stepped) -> None:
    """Whoever is in memory has all that it was read behind there too."""
    runs = world.scheduler._runs
    assert all(key in runs for one in runs._runs for key in one.chain)


def same(found: Generation, expected: Generation) -> bool:
    return found.token_ids == expected.token_ids and all(
        one == pytest.approx(other, abs=1e-4)
        for one, other in zip(found.continuation_nll, expected.continuation_nll, strict=True)
    )


def finished(world: Stepped, request: GenerationRequest) -> Generation:
    job = world.add(request)
    while not world.scheduler.idle:
        world.step()
        check_chains(world)
    return job.stream.result()


@pytest.mark.parametrize("options", [{}, {"passages": PASSAGES}, {"passages": PASSAGES, "in_line": True}])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_front_cut_in_any_way_is_the_front_in_one_piece(
    kind: str, options: dict[str, Texts], tiny: Tiny
) -> None:
    model = tiny(kind)
    request = asked(301, 20, max_new_tokens=6, **options)
    with stepped(model) as world:
        whole = finished(world, replace(request, front=(FRONT,)))
        if not options:
            assert same(finished(world, replace(request, token_ids=FRONT + request.token_ids)), whole)
    for number, pieces in enumerate(CUTS):
        with stepped(model) as world:
            cold, warm = (finished(world, replace(request, front=pieces)) for _ in range(2))
            for other in company()[number :: len(CUTS)]:
                world.add(other)
            world.step(6)
            crowded = finished(world, replace(request, front=pieces))
        assert same(cold, whole) and same(warm, whole) and same(crowded, whole)
        runs = len(pieces) + len(request.passages)
        assert (cold.run_misses, warm.run_hits) == (runs, runs)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_told_of_a_front_in_pieces_what_it_is_told_of_one(name: str, tiny: Tiny) -> None:
    options = POLICIES[name] | ({"budget": 130} if "budget" in POLICIES[name] else {})
    request = asked(302, 150, memory_options(options), max_new_tokens=6)
    found = []
    for front in ((FRONT,), *CUTS[:2]):
        with stepped(tiny()) as world:
            found.append(finished(world, replace(request, front=front)))
    assert same(found[1], found[0]) and same(found[2], found[0])
    assert len({(one.memory.held_entries, one.memory.freed_entries) for one in found}) == 1


def test_who_begins_with_the_same_texts_shares_them(tiny: Tiny) -> None:
    a, b, c, d = (ids(16 * length, 310 + length) for length in (1, 2, 3, 4))
    with stepped(tiny()) as world:
        found = []
        for front in ((a, b), (a, b, c), (a, d), (b,), (a, b, c, d)):
            one = finished(world, asked(303, 10, front=front))
            found.append((one.run_hits, one.run_misses))
        assert found == [(0, 2), (2, 1), (1, 1), (0, 1), (3, 1)]
        assert world.pool.used == world.run_blocks == SLOTS * (1 + 2 + 3 + 4 + 2 + 4)


def test_the_same_text_again_is_another_run(tiny: Tiny) -> None:
    text = ids(20, 320)
    with stepped(tiny()) as world:
        found = finished(world, asked(304, 10, front=(text,) * 4))
        whole = finished(world, asked(304, 10, front=(text * 4,)))
    assert same(found, whole)
    assert found.run_misses == 4


@pytest.mark.parametrize("steps", range(1, 10))
def test_cancelling_at_any_step_loses_no_block_and_disturbs_nobody(steps: int, tiny: Tiny) -> None:
    requests = [
        asked(305, 10, front=cut(20, 40), passages=PASSAGES[:1]),
        asked(306, 10, front=cut(20, 40)),
        asked(307, 10, front=cut(20)),
    ]
    with stepped(tiny()) as world:
        alone = [finished(world, request) for request in requests]
    for gone in range(3):
        with stepped(tiny(), tokens=400) as world:
            jobs = [world.add(request) for request in requests]
            world.step(steps)
            jobs[gone].cancelled = True
            while not world.scheduler.idle:
                world.step()
                check_chains(world)
            assert world.pool.used == world.run_blocks
        for index, job in enumerate(jobs):
            assert index == gone or same(job.stream.result(), alone[index])
    with stepped(tiny(), tokens=400) as world:
        jobs = [world.add(request) for request in requests]
        world.step(steps)
        for job in jobs:
            job.cancelled = True
        world.step()
        assert world.scheduler.idle and not world.scheduler._in_work
        assert world.pool.used == world.run_blocks


def test_of_a_chain_what_stands_behind_goes_first(tiny: Tiny) -> None:
    front, whole = cut(16, 32, 48), asked(308, 10, front=cut(16, 32, 48))
    with stepped(tiny(), tokens=180) as world:
        expected = finished(world, whole)
        for tokens in (100, 120, 140):
            finished(world, asked(309, tokens, max_new_tokens=20, continuations=()))
        left = world.run_blocks
        again = finished(world, whole)
    assert 0 < left < SLOTS * (len(front) + 1)
    assert 0 < again.run_hits < len(front)
    assert same(again, expected)


def test_under_a_small_memory_chains_come_and_go_and_nothing_is_lost(tiny: Tiny) -> None:
    rng = random.Random(3)
    texts = [ids(rng.randint(1, 30), 330 + number) for number in range(5)]
    requests = [
        asked(340 + i, 9, front=tuple(rng.choices(texts, k=rng.randint(1, 5))), max_new_tokens=6)
        for i in range(20)
    ]
    with stepped(tiny(), tokens=3000) as world:
        expected = [finished(world, replace(one, front=(sum(one.front, ()),))) for one in requests]
    with stepped(tiny(), tokens=300) as world:
        jobs = []
        for request in requests:
            jobs.append(world.add(request))
            world.step(rng.randint(0, 6))
            check_chains(world)
        while not world.scheduler.idle:
            world.step()
            check_chains(world)
        assert world.pool.used == world.run_blocks
    assert all(same(job.stream.result(), one) for job, one in zip(jobs, expected, strict=True))


def test_an_empty_text_in_front_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"front is \(\(5,\), \(\)\); expected at least one token each"):
        GenerationRequest((5,), front=((5,), ()))
