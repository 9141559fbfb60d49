"""What only the fast attention does: parts in an order, and heads that are equally long at once."""

import numpy as np
import pytest
import torch

from refdesk.memory.attention import ReferenceAttention
from refdesk.memory.fast_attention import FastAttention
from refdesk.memory.policies.kv_compress import KVCompress
from tests.memory.worlds import Turn, World, shape

pytestmark = pytest.mark.usefixtures("one_thread")


def test_parts_of_one_row_stand_first() -> None:
    world = World(FastAttention)
    first, second = world.story(), world.story()
    with pytest.raises(AssertionError, match="stand first"):
        world.read(Turn(first, 3), Turn(second, 1))


def test_one_row_may_be_observed_behind_longer_parts() -> None:
    policy = KVCompress(queries=4, pooling=3)
    scores = []
    for kind in (FastAttention, ReferenceAttention):
        world = World(kind)
        first, second, third = world.story(), world.story(), world.story()
        world.read(Turn(first, 5), Turn(second, 9))
        world.read(Turn(first, 1), Turn(third, 4), Turn(second, 1, policy, observe=True)).check(5e-6)
        slots, _ = second.sequence.own_slots()
        scores.append(world.pool.scores.view(-1)[slots])
        assert (scores[-1] > 0).all()
    assert torch.allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_stays_exact_over_a_long_context_in_many_parts(dtype: torch.dtype) -> None:
    world = World(FastAttention, shape(1, 1, 64, dtype), group=3, block_size=16)
    story = world.story()
    tolerance = {torch.float32: 5e-6, torch.bfloat16: 3e-2}[dtype]
    for rows in (512, 1, 511, 300, 1):
        world.read(Turn(story, rows)).check(tolerance)
    world.thin(story, 0.3)
    for rows in (200, 1):
        world.read(Turn(story, rows)).check(tolerance)


def test_heads_that_hold_nothing_of_their_own_in_front_may_stand_beside_those_that_do() -> None:
    world = World(FastAttention)
    prefix, passage = world.story(), world.story()
    world.read(Turn(prefix, 3), Turn(passage, 9))
    passage.sequence.cut(np.array([[0, 9], [5, 0]]))
    passage.note_evictions()
    story = world.story((passage.sequence, passage.own))
    world.read(Turn(story, 4)).check(5e-6)
    world.read(Turn(story, 1)).check(5e-6)
    both = world.story((prefix.sequence, prefix.own), (passage.sequence, passage.own))
    world.read(Turn(both, 4)).check(5e-6)
    world.read(Turn(both, 1)).check(5e-6)


@pytest.mark.parametrize("kind", [FastAttention, ReferenceAttention])
def test_one_sequence_decodes_over_block_borders(kind: type[FastAttention] | type[ReferenceAttention]) -> None:
    world = World(kind, shape(1, 3, 16), group=1, block_size=2)
    story = world.story()
    for _ in range(11):
        world.read(Turn(story, 1)).check(5e-6)
    assert (story.sequence.own_blocks == 6).all()
    story.check()
