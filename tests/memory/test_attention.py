"""Both attentions equal plain attention over everything that was told and not evicted."""

import pytest
import torch

from refdesk.memory.attention import PagedAttention, Part, ReferenceAttention
from refdesk.memory.errors import OutOfBlocks, UnsupportedAttention
from refdesk.memory.fast_attention import FastAttention
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.snapkv import SnapKV
from refdesk.memory.policy import EvictionPolicy
from refdesk.memory.pool import BlockPool
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.memory.rotation import Rotation
from refdesk.memory.runs import RunKey, Runs
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import Read, Story, Turn, World, check_pool, shape

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 3e-2}
both = pytest.mark.parametrize("kind", [ReferenceAttention, FastAttention])


def play(world: World) -> list[Read]:
    """All that can be in a batch, in one life of a pool: prompts in parts, decoding, ragged lengths, runs with
    blocks half filled in front, at several places, forks."""
    reads = []
    runs = Runs(world.pool, limit=world.pool.blocks)
    prefix = world.story()
    reads.append(world.read(Turn(prefix, 7)))
    reads.append(world.read(Turn(prefix, 4)))
    world.thin(prefix, 0.6)
    key = RunKey((0,))
    prefix_run = (runs.add(key, prefix.sequence), prefix.own)
    passages = [world.story(prefix_run) for _ in range(2)]
    reads.append(world.read(Turn(passages[0], 6), Turn(passages[1], 9)))
    world.thin(passages[1], 0.4)
    passage_runs = [
        (runs.add(RunKey((index,), key), passage.sequence), passage.own) for index, passage in enumerate(passages)
    ]
    alone, behind_one = world.story(), world.story(prefix_run)
    behind_all, in_line = (
        world.story(prefix_run, *passage_runs),
        world.story(prefix_run, *passage_runs, by=(0, 0, 6)),
    )
    moved = world.story(*passage_runs[::-1], by=(500, 3))
    several = [Turn(one, rows) for rows, one in enumerate((behind_all, in_line, moved), start=3)]
    reads.append(world.read(Turn(behind_one, 1), Turn(alone, 13), *several))
    reads.append(world.read(Turn(alone, 1), Turn(behind_one, 1), Turn(in_line, 1), Turn(behind_all, 6)))
    for story in (alone, behind_one, behind_all, in_line):
        world.thin(story, 0.5)
    forks = [world.fork(alone), world.fork(behind_all), world.fork(in_line), world.fork(moved)]
    for _ in range(5):
        reads.append(world.read(Turn(behind_one, 1), *(Turn(fork, 1) for fork in forks)))
    reads.append(world.read(Turn(forks[1], 1), Turn(behind_one, 1), Turn(forks[0], 5), Turn(forks[3], 2)))
    world.thin(forks[0], 0.3)
    reads.append(world.read(Turn(forks[1], 1), Turn(forks[0], 1)))
    live: list[Story] = [alone, behind_one, behind_all, in_line, moved, *forks]
    for story in live:
        story.check()
    world.pool.check_integrity([*runs.ids(), *(story.sequence.own_ids() for story in live)])
    return reads


@pytest.mark.parametrize("block_size", [1, 3, 4, 16])
@pytest.mark.parametrize(("group", "dim"), [(1, 16), (2, 64), (3, 64), (3, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@both
def test_any_batch_equals_full_attention_with_the_evicted_masked(
    kind: type[PagedAttention], dtype: torch.dtype, group: int, dim: int, block_size: int
) -> None:
    world = World(kind, shape(head_dim=dim, dtype=dtype), group=group, block_size=block_size)
    for read in play(world):
        assert read.out.dtype == dtype
        read.check(TOLERANCE[dtype])


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_equals_reference(dtype: torch.dtype, block_size: int) -> None:
    cache = shape(layers=3, kv_heads=3, dtype=dtype)
    fast, plain = (
        play(World(kind, cache, group=3, block_size=block_size, seed=5))
        for kind in (FastAttention, ReferenceAttention)
    )
    for mine, theirs in zip(fast, plain, strict=True):
        assert torch.equal(mine.expected, theirs.expected)
        assert (mine.out.float() - theirs.out.float()).abs().max() < TOLERANCE[dtype]


@both
def test_a_batch_of_many_sequences_equals_each_alone(kind: type[PagedAttention]) -> None:
    world = World(kind, block_size=4)
    stories = [world.story() for _ in range(9)]
    world.read(*(Turn(story, 2 + index) for index, story in enumerate(stories)))
    for share in (0.8, 0.3):
        for story in stories:
            world.thin(story, share)
        for _ in range(6):
            world.read(*(Turn(story, 1) for story in stories)).check(5e-6)
    check_pool(world.pool, (story.sequence for story in stories))


@both
def test_what_others_hold_is_neither_changed_nor_scored(kind: type[PagedAttention]) -> None:
    world = World(kind)
    held = world.story()
    world.read(Turn(held, 6))
    ids = held.sequence.own_ids()
    stores = (world.pool.keys, world.pool.values, world.pool.positions, world.pool.scores)
    before = [store[ids].clone() for store in stores]
    policy = KVCompress(queries=2, pooling=1)
    for _ in range(2):
        fork = world.fork(held)
        world.read(Turn(fork, 3, policy, observe=True))
        world.read(Turn(fork, 1, policy, accumulate=True))
        assert (fork.sequence.shared_entries == 6).all()
    for store, old in zip(stores, before, strict=True):
        filled = torch.from_numpy(world.pool.fill[ids])[:, None] > torch.arange(world.pool.block_size)
        assert torch.equal(store[ids][filled], old[filled])


def own_scores(story: Story) -> torch.Tensor:
    """The stored scores by position, `[layers, kv_heads, n]`; NaN where evicted."""
    slots, exists = story.sequence.own_slots()
    pool = story.sequence.pool
    found = torch.full(story.own.kept.shape, float("nan"))
    first = int(story.own.positions[0])
    for layer, head, place in exists.nonzero().tolist():
        slot = slots[layer, head, place]
        found[layer, head, int(pool.positions.view(-1)[slot]) - first] = pool.scores.view(-1)[slot]
    return found


@both
def test_stored_scores_are_those_of_the_prompt_and_every_later_query_s_squared_attention(
    kind: type[PagedAttention],
) -> None:
    """Methods 2.5, 10."""
    world = World(kind, group=3)
    policy = KVCompress(queries=4, pooling=3)
    behind = world.story()
    world.read(Turn(behind, 5))
    story, other = world.fork(behind), world.story()
    world.read(Turn(other, 6), Turn(story, 7))
    last = world.read(Turn(story, 6, policy, observe=True)).attention[0]
    per_head = last[..., -4:, 5:].square().sum(-2)
    expected = torch.nn.functional.max_pool1d(per_head.flatten(0, 2), 3, 1, 1).view(per_head.shape).sum(2)
    assert torch.allclose(own_scores(story).double(), expected, atol=1e-6)
    for step in range(9):
        if step == 4:
            world.thin(story, 0.5)
        attention = world.read(Turn(other, 1), Turn(story, 1, policy, accumulate=True)).attention[1]
        expected = torch.nn.functional.pad(expected, (0, 1))
        expected = expected + attention[..., 5:].square().sum((2, 3))
    found = own_scores(story)
    assert torch.equal(found.isnan(), ~story.own.kept)
    assert torch.allclose(found[story.own.kept].double(), expected[story.own.kept], atol=1e-6)
    assert (own_scores(other) == 0).all()


@pytest.mark.parametrize("policy", [KVCompress(queries=8, pooling=5, power=1), SnapKV(queries=8, pooling=5)])
@both
def test_what_is_observed_is_pooled_in_the_order_of_the_text(
    kind: type[PagedAttention], policy: EvictionPolicy
) -> None:
    """Where entries lie after eviction must not matter, nor that the last part is shorter than the window."""
    world = World(kind, block_size=3)
    story = world.story()
    world.read(Turn(story, 14))
    world.thin(story, 0.5)
    attention = world.read(Turn(story, 5, policy, observe=True)).attention[0].float()
    found = own_scores(story)
    for layer, head in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        kept = story.own.kept[layer, head]
        expected = policy.score(story.own.positions[kept], attention[layer, head][..., kept])
        assert torch.allclose(found[layer, head, kept], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@both
def test_retaining_heads_score_what_is_written_as_it_was_before_any_position(
    kind: type[PagedAttention], dtype: torch.dtype
) -> None:
    """Methods 1.2.1 and 0.5: also one token alone, beside one that is generated, and behind others' entries."""
    world = World(kind, shape(3, 2, 16, dtype), group=3)
    frequencies = torch.tensor([1.0, 0.5, 0.1, 0.01, 0.001, 0.0, 0.3, 2.0])
    world.pool.rotation = Rotation(frequencies)
    down, up = (torch.randn(size, generator=torch.Generator().manual_seed(1)) for size in ((3, 160, 7), (3, 7, 2)))
    heads = RetainingHeads("x", down, up)
    front, other = world.story(), world.story()
    world.read(Turn(front, 5), Turn(other, 9))
    story = world.fork(front)
    queries = []
    for rows in (6, 1, 3):
        read = world.read(Turn(other, 1), Turn(story, rows, heads=heads))
        read.check(TOLERANCE[dtype])
        queries.append(read.queries[1])
    angle = story.own.positions[:, None] * frequencies

    def unturned(vectors: torch.Tensor) -> torch.Tensor:
        whole = torch.complex(vectors[..., :8].float(), vectors[..., 8:].float())
        back = whole * torch.polar(torch.ones_like(angle), -angle)
        return torch.cat([back.real, back.imag], -1)

    query, key = unturned(torch.cat(queries, -2)), unturned(story.own.keys)
    for layer in range(3):
        for token in range(10):
            seen = torch.cat([query[layer, :, :, token].flatten(), key[layer, :, token].flatten()])
            seen = torch.cat([seen, story.own.values[layer, :, token].float().flatten()])
            expected = torch.nn.functional.silu(seen @ down[layer]) @ up[layer]
            assert torch.allclose(own_scores(story)[layer, :, token], expected, atol=2e-3)
    assert (own_scores(other) == 0).all()


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_what_the_store_cannot_do_is_refused_by_name(name: str) -> None:
    world = World(ReferenceAttention)
    some = torch.zeros(1, 2, 1, 16)
    with pytest.raises(UnsupportedAttention, match=name):
        world.attention(torch.nn.Module(), some, some, some, None, 1.0, **{name: 30.0})


@both
def test_a_batch_without_room_leaves_everything_as_it_was(kind: type[PagedAttention]) -> None:
    pool = BlockPool(shape(), 11, 4)
    attention = kind(pool)
    first, second = Sequence(pool), Sequence(pool)
    parts = (Part(first, 8), Part(second, 4))
    with pytest.raises(OutOfBlocks) as error, attention.batch(parts):
        raise AssertionError("there is no room")
    assert (error.value.wanted, error.value.free) == (12, 11)
    assert pool.free == 11
    assert not first.own_blocks.any() and not first.entries.any()
    assert (first.position, attention.parts) == (0, ())


@both
def test_a_forward_that_fails_adds_no_entries(kind: type[PagedAttention]) -> None:
    world = World(kind)
    story = world.story()
    world.read(Turn(story, 5))
    with pytest.raises(RuntimeError), world.attention.batch((Part(story.sequence, 9),)):
        raise RuntimeError
    assert (story.sequence.own == 5).all() and story.sequence.position == 5
    story.check()
    world.read(Turn(story, 3)).check(5e-6)
    world.read(Turn(world.fork(story), 2)).check(5e-6)


@both
def test_room_in_front_that_holds_nothing_is_nothing(kind: type[PagedAttention]) -> None:
    world = World(kind)
    empty = world.story()
    empty.sequence.grow(9)
    fork = world.fork(empty)
    world.read(Turn(fork, 3)).check(5e-6)
    world.read(Turn(fork, 1)).check(5e-6)
