"""Evicting equals masking, whole blocks come free, and what stays stays as it is."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from refdesk.memory.attention import PagedAttention, ReferenceAttention
from refdesk.memory.eviction import compact, evict
from refdesk.memory.fast_attention import FastAttention
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.random import Random
from refdesk.memory.policies.snapkv import SnapKV
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import Entries, EvictionPolicy
from refdesk.memory.pool import BlockPool
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import (
    Story,
    Turn,
    World,
    check_pool,
    held_positions,
    scored,
    shape,
    write,
)

pytestmark = pytest.mark.usefixtures("one_thread")

POLICIES = [
    KVCompress(queries=4, pooling=3, protected=3),
    SnapKV(queries=4, pooling=3),
    Streaming(first=2),
    Random(keep_recent=3),
]
BLOCKS = KVCompress(protected=0)
both = pytest.mark.parametrize("kind", [ReferenceAttention, FastAttention])
every = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)


def read_prompt(world: World, story: Story, policy: EvictionPolicy, rows: int) -> None:
    world.read(Turn(story, rows - rows // 2))
    world.read(Turn(story, rows // 2, policy, observe=policy.window > 0))


def decode(world: World, story: Story, policy: EvictionPolicy) -> torch.Tensor:
    read = world.read(Turn(story, 1, policy, accumulate=policy.accumulates))
    read.check(5e-6)
    return read.out


@every
@both
def test_evicting_nothing_changes_nothing(kind: type[PagedAttention], policy: EvictionPolicy) -> None:
    """Methods 2.5, 1."""
    outs = []
    for budgets in ([], [40, 37]):
        world = World(kind)
        story = world.story()
        read_prompt(world, story, policy, 30)
        for budget in budgets:
            evict(story.sequence, policy, budget)
        assert story.sequence.freed == story.sequence.freed_blocks == 0
        outs.append([decode(world, story, policy) for _ in range(3)])
    assert all(torch.equal(mine, other) for mine, other in zip(*outs, strict=True))


@pytest.mark.parametrize("block_size", [1, 4, 16])
@every
@both
def test_evicting_equals_masking(kind: type[PagedAttention], policy: EvictionPolicy, block_size: int) -> None:
    """Methods 2.5, 2, 6 and 11: behind a shared run, again and again while the answer grows."""
    world = World(kind, shape(layers=3, kv_heads=2), group=3, block_size=block_size)
    front = world.story()
    world.read(Turn(front, 6))
    story = world.fork(front)
    read_prompt(world, story, policy, 40)
    for room in (24, 14, 14, 6):
        evict(story.sequence, policy, room)
        story.note_evictions()
        story.check()
        check_pool(world.pool, [front.sequence, story.sequence])
        for _ in range(3):
            decode(world, story, policy)
        world.read(Turn(story, 2)).check(5e-6)
    assert story.sequence.freed == (~story.own.kept).sum() > 0
    assert story.sequence.position == 6 + 40 + 4 * 5
    assert story.own.kept[..., -policy.recent or -1 :].all()
    front.check()


@every
def test_what_is_held_stays_within_the_budget(policy: EvictionPolicy) -> None:
    sequence = Sequence(BlockPool(shape(3, 2, 2), 600, 4))
    write(sequence, 70, torch.rand(3, 2, 70, generator=torch.Generator().manual_seed(1)))
    free = sequence.pool.free
    evict(sequence, policy, 18)
    if policy.shared:
        assert sequence.own_blocks.sum() == 5 * 6
        assert len(set(sequence.own.flatten().tolist())) > 1
        assert (sequence.own % 4 == 0)[sequence.own < 70].all()
    else:
        assert (sequence.own == 18).all()
    assert sequence.freed_blocks == sequence.pool.free - free
    assert sequence.freed == 70 * 6 - sequence.own.sum()
    check_pool(sequence.pool, [sequence])


@every
def test_what_others_hold_is_not_evicted(policy: EvictionPolicy) -> None:
    pool = BlockPool(shape(1, 2, 2), 100, 4)
    front = Sequence(pool)
    write(front, 10)
    front.cut(np.array([[10, 7]]))
    sequence = Sequence(pool, [front], 10)
    write(sequence, 30, torch.rand(1, 2, 30, generator=torch.Generator().manual_seed(1)))
    evict(sequence, policy, 12)
    assert sequence.shared_entries.tolist() == front.own.tolist() == [[10, 7]]
    if policy.shared:
        assert sequence.own_blocks.sum() == 3 * 2
    else:
        assert sequence.own.tolist() == [[12, 12]]
    check_pool(pool, [front, sequence])


@every
def test_protected_entries_survive_any_budget(policy: EvictionPolicy) -> None:
    """Methods 2.5, 8."""
    sequence = Sequence(BlockPool(shape(2, 2, 2), 100, 4))
    write(sequence, 31, torch.rand(2, 2, 31, generator=torch.Generator().manual_seed(1)))
    evict(sequence, policy, 1)
    protected = {*range(policy.sinks), *range(31 - policy.recent, 31)}
    for layer, head in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        held = set(held_positions(sequence, layer, head))
        assert protected <= held
        assert len(held) <= (4 if policy.shared else len(protected))
    before = sequence.own.copy()
    evict(sequence, policy, 1)
    assert (sequence.own == before).all()


def test_no_head_is_emptied_that_has_nothing_in_front() -> None:
    sequence = scored([[0.1] * 9, [0.9] * 9], 4)
    evict(sequence, BLOCKS, 4)
    assert sequence.own_blocks.tolist() == [[1, 1]]
    sequence = scored([[0.1] * 9, [0.9] * 9], 4)
    fork = Sequence(sequence.pool, [sequence], 9)
    write(fork, 5)
    evict(fork, BLOCKS, 0)
    assert not fork.own.any() and not len(fork.own_ids())
    write(fork, 1)
    assert (fork.entries == 10).all()
    check_pool(sequence.pool, [sequence, fork])


def test_a_sequence_that_owns_nothing_is_left_alone() -> None:
    sequence = Sequence(BlockPool(shape(), 4))
    for policy in POLICIES:
        evict(sequence, policy, 4)
    assert sequence.pool.free == 4


def test_room_that_holds_nothing_does_not_push_out_what_is_held() -> None:
    sequence = scored([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], 2)
    sequence.grow(6)
    evict(sequence, BLOCKS, 4)
    assert sequence.own.tolist() == [[4, 4]]


def moves(sequence: Sequence, budget: int) -> tuple[list[list[int]], list[list[int]]]:
    """Of both heads, which token lies in which slot: after evicting, and what went."""
    evict(sequence, BLOCKS, budget)
    held = [held_positions(sequence, 0, head) for head in range(2)]
    gone = [sorted(set(range(count)) - set(row)) for count, row in zip((5, 2), held, strict=True)]
    return held, gone


def test_case_a_of_the_methods() -> None:
    heads = [[0.9, 0.1, 0.4, 0.2, 0.7], [0.3, 0.6]]
    assert moves(scored(heads, 2), 4) == ([[0, 1, 2, 3, 4], [0, 1]], [[], []])
    assert moves(scored(heads, 2), 2) == ([[0, 4], [0, 1]], [[1, 2, 3], []])
    one_block = scored(heads, 2)
    keep = torch.tensor([[[True, False, True, True, True], [True, True, False, False, False]]])
    compact(one_block, keep)
    assert held_positions(one_block, 0, 0) == [0, 4, 2, 3]


def test_case_e_of_the_methods() -> None:
    """90 rows of 2048 tokens with a budget of 128 keep 720 of 11,520 blocks."""
    sequence = Sequence(BlockPool(shape(30, 3, 1, torch.bfloat16), 11_520))
    write(sequence, 2048, torch.rand(30, 3, 2048, generator=torch.Generator().manual_seed(1)))
    assert sequence.pool.free == 0
    evict(sequence, KVCompress(), 128)
    assert sequence.freed_blocks == sequence.pool.free == 10_800
    assert sequence.own_blocks.sum() == 720 and sequence.own.sum() == 128 * 90
    sequence.pool.check_integrity([sequence.own_ids()])


def test_with_blocks_of_one_entry_the_best_of_all_stay() -> None:
    """Methods 2.5, 7."""
    scores = torch.rand(2, 3, 20, generator=torch.Generator().manual_seed(3))
    scores[..., 7] += 1
    sequence = Sequence(BlockPool(shape(2, 3, 2), 200, 1))
    write(sequence, 20, scores)
    evict(sequence, BLOCKS, 6)
    best = set(scores.flatten().topk(36).indices.tolist())
    held = {
        (layer * 3 + head) * 20 + position
        for layer in range(2)
        for head in range(3)
        for position in held_positions(sequence, layer, head)
    }
    assert held == best


def test_identical_query_heads_multiply_the_scores_and_keep_the_same() -> None:
    """Methods 2.5, 9."""
    policy = KVCompress(queries=4, pooling=3, protected=2)
    found: dict[int, list[torch.Tensor]] = {}
    for group in (1, 3):
        world = World(ReferenceAttention, group=group, copies=True)
        story = world.story()
        read_prompt(world, story, policy, 30)
        slots, _ = story.sequence.own_slots()
        scores = world.pool.scores.view(-1)[slots]
        evict(story.sequence, policy, 9)
        story.note_evictions()
        found[group] = [scores, story.own.kept]
    assert torch.allclose(found[3][0], 3 * found[1][0], rtol=1e-6)
    assert torch.equal(found[3][1], found[1][1])


def rotated(keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, as models have it."""
    half = keys.shape[-1] // 2
    angle = positions[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    turned = torch.cat([-keys[..., half:], keys[..., :half]], -1)
    return keys * angle.cos().repeat(1, 2) + turned * angle.sin().repeat(1, 2)


def test_everything_travels_with_its_key_and_keys_are_not_rotated_anew() -> None:
    """Methods 2.5, 6 and 11."""
    pool = BlockPool(shape(2, 3, 8), 200, 4)
    sequence = Sequence(pool)
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand(2, 3, 50, generator=generator)
    write(sequence, 50, scores)
    slots, _ = sequence.own_slots()
    keys = rotated(torch.randn(2, 3, 50, 8, generator=generator), torch.arange(50))
    pool.keys.view(-1, 8)[slots] = keys
    for budget in (30, 16, 5):
        evict(sequence, BLOCKS, budget)
        for layer in range(2):
            for head in range(3):
                held = torch.from_numpy(sequence.held_slots(layer, head))
                positions = pool.positions.view(-1)[held].long()
                assert len(set(positions.tolist())) == len(positions)
                assert torch.equal(pool.keys.view(-1, 8)[held], keys[layer, head, positions])
                assert torch.equal(pool.scores.view(-1)[held], scores[layer, head, positions])
                assert (pool.values.view(-1, 8)[held] == -positions[:, None]).all()
                assert sequence.own_sources()[layer, head, : len(held)].tolist() == positions.tolist()
    assert sequence.position == 50
    write(sequence, 1)
    assert all(held_positions(sequence, layer, head)[-1] == 50 for layer in range(2) for head in range(3))
    shares = sequence.held_shares()
    assert len(shares) == 51
    assert shares[50] == 1.0
    assert shares.sum() == pytest.approx(sequence.own.sum() / 6)


@dataclass(frozen=True)
class Odd(EvictionPolicy):
    """A policy that somebody adds: even positions go first."""

    name: ClassVar[str] = "odd"

    def rank(self, entries: Entries, room: int) -> torch.Tensor:
        return (entries.positions % 2).float()


def test_a_policy_of_one_s_own_needs_only_scores() -> None:
    sequence = Sequence(BlockPool(shape(), 100, 4))
    write(sequence, 20)
    evict(sequence, Odd(), 10)
    for layer, head in [(0, 0), (1, 1)]:
        assert sorted(held_positions(sequence, layer, head)) == list(range(1, 20, 2))
