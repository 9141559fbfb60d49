"""InfiniPot's choice, by itself: attention and novelty are given. Methods 6.1.5; the rest of it is in
tests/reader/test_compact.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.eviction import best, evict
from refdesk.memory.policies.infinipot import InfiniPot, InfiniPotQ
from refdesk.memory.policy import Entries
from refdesk.memory.pool import BlockPool
from refdesk.memory.rotation import Rotation
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import check_pool, shape, write

pytestmark = pytest.mark.usefixtures("one_thread")

INF = float("inf")


def kept(policy: InfiniPot, novelty: list[float], seen: list[list[float]], room: int) -> list[list[int]]:
    """The entries of each head that stay."""
    scores = torch.tensor([seen])
    entries = Entries(
        torch.arange(scores.shape[-1]).expand(scores.shape), scores, torch.tensor(novelty).expand(scores.shape)
    )
    keep = best(policy.rank(entries, room), torch.ones(scores.shape, dtype=torch.bool), torch.tensor(room))
    return [row.nonzero().flatten().tolist() for row in keep[0]]


def test_the_numeric_case_of_the_methods() -> None:
    seen = [[0.0, 9, 1, 8, 2, 7], [9.0, 0, 8, 1, 7, 2]]
    assert kept(InfiniPot(), [5, 1, 4, 2, 3, 0], seen, 4) == [[0, 1, 2, 3], [0, 2, 4, 5]]


numbers = st.lists(st.integers(0, 10**6), min_size=24, max_size=24, unique=True)


@settings(max_examples=50)
@given(numbers, st.lists(numbers, min_size=3, max_size=3), st.integers(1, 24), st.integers(0, 100))
def test_every_head_keeps_as_many_some_of_them_for_what_they_are_the_rest_for_who_looks_at_them(
    novelty: list[float], seen: list[list[float]], room: int, percent: int
) -> None:
    """Methods 6.1.5, 3."""
    heads = kept(InfiniPot(novelty=percent), novelty, [[float(n) for n in row] for row in seen], room)
    newest = sorted(range(24), key=lambda token: -novelty[token])[: room * percent // 100]
    for row, head in zip(seen, heads, strict=True):
        others = sorted(set(range(24)) - set(newest), key=lambda token: -row[token])
        assert head == sorted(newest + others[: room - len(newest)])
    if percent == 100:
        assert heads[0] == heads[1] == heads[2] == sorted(newest)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 15), st.integers(0, 100), st.integers(0, 9))
def test_what_is_new_is_the_same_in_all_heads_after_any_number_of_distillations(
    seed: int, room: int, chunk: int, percent: int, front: int
) -> None:
    """Methods 6.1.2: at each of them heads hold different tokens, and are asked one by one."""
    generator = torch.Generator().manual_seed(seed)
    pool = BlockPool(shape(2, 2, 2), 400, 4)
    pool.rotation = Rotation(torch.ones(1))
    before = Sequence(pool)
    write(before, front)
    sequence, policy = Sequence(pool, [before], front), InfiniPot(novelty=percent)
    surprise = torch.cat([torch.tensor([INF]), torch.rand(79, generator=generator)])
    for start in range(0, 80, chunk):
        rows = min(chunk, 80 - start)
        write(sequence, rows)
        pool.novelty.view(-1)[torch.from_numpy(sequence.latest_slots(rows))] = surprise[start : start + rows]
        slots, exists = sequence.own_slots()
        assert exists.all() and slots.shape[-1] <= room + chunk
        pool.scores.view(-1)[slots] = torch.rand(slots.shape, generator=generator)
        evict(sequence, policy, room, last=start + rows == 80)
        held = pool.novelty.view(-1)[sequence.own_slots()[0]].flatten(0, 1)
        newest = surprise[: start + rows].sort(descending=True).values[: min(room, start + rows) * percent // 100]
        assert all(len(row) == min(room, start + rows) for row in held)
        assert all(set(newest.tolist()) <= set(row.tolist()) for row in held)
        assert sequence.position == front + held.shape[-1]
    check_pool(pool, [before, sequence])


def test_who_looks_is_summed_over_the_group_and_averaged_over_the_catalyst() -> None:
    attention = torch.rand(3, 5, 11, generator=torch.Generator().manual_seed(1))
    found = InfiniPotQ().score(torch.arange(11), attention)
    expected = [sum(float(attention[a, :, j].sum()) / 5 for a in range(3)) for j in range(11)]
    assert found.tolist() == pytest.approx(expected)


def test_without_novelty_none_is_asked_for() -> None:
    assert InfiniPot().novel and InfiniPot(novelty=1).novel and not InfiniPot(novelty=0).novel
    with pytest.raises(InvalidMemory, match="novelty is 101; expected 0 to 100 percent"):
        InfiniPot(novelty=101)
