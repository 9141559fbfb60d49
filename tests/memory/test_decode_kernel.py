"""The kernel of decoding by itself."""

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from refdesk.memory.decode_kernel import _exp
from refdesk.memory.errors import UnsupportedAttention
from refdesk.memory.fast_attention import FastAttention
from refdesk.memory.pool import BlockPool
from tests.memory.worlds import Turn, World, shape

pytestmark = pytest.mark.usefixtures("one_thread")


def test_its_exponential_is_right_to_single_precision() -> None:
    @njit  # type: ignore[untyped-decorator]
    def over(numbers: Any, out: Any) -> None:
        for index in range(len(numbers)):
            out[index] = _exp(numbers[index])

    numbers = np.linspace(-87, 0, 100_001, dtype=np.float32)
    out = np.empty_like(numbers)
    over(numbers, out)
    exact = np.exp(numbers.astype(np.float64))
    assert np.abs(out - exact).max() < 2e-7
    assert np.abs(out / exact - 1).max() < 5e-6
    far = np.array([-88, -1e4, -3e38], np.float32)
    out = np.empty_like(far)
    over(far, out)
    assert (out >= 0).all() and (out < 1e-37).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_rows_and_change_no_number(threads: int) -> None:
    torch.set_num_threads(threads)
    outs = []
    for count in (threads, 1):
        world = World(FastAttention)
        stories = [world.story() for _ in range(5)]
        world.read(*(Turn(story, 3 + index) for index, story in enumerate(stories)))
        torch.set_num_threads(count)
        read = world.read(*(Turn(story, 1) for story in stories))
        read.check(5e-6)
        outs.append(read.out)
    assert torch.equal(*outs)


def test_it_writes_the_new_entries_and_nothing_else() -> None:
    world = World(FastAttention)
    stories = [world.story() for _ in range(3)]
    world.read(*(Turn(story, 3 + index) for index, story in enumerate(stories)))
    stores = (world.pool.keys, world.pool.values, world.pool.positions, world.pool.scores)
    before = [store.clone().view(torch.int32) for store in stores]  # bits, for what nobody wrote is NaN
    slots = []
    for story in stories:
        story.sequence.grow(1)
        slots.append(torch.from_numpy(story.sequence.slots(1)).flatten())
    new = torch.zeros(world.pool.blocks * world.pool.block_size, dtype=torch.bool)
    new[torch.cat(slots)] = True
    world.read(*(Turn(story, 1) for story in stories)).check(5e-6)
    for story in stories:
        story.check()
    for store, old in zip(stores, before, strict=True):
        assert torch.equal(store.view(torch.int32).flatten(0, 1)[~new], old.flatten(0, 1)[~new])
    assert (world.pool.scores.view(-1)[new] == 0).all()


def test_large_logits_neither_overflow_nor_vanish() -> None:
    world = World(FastAttention, shape(1, 1, 16))
    story = world.story()
    world.read(Turn(story, 9))
    slots = story.sequence.held_slots(0, 0)
    world.pool.keys.view(-1, 16)[slots] *= 1e4
    story.own.keys *= 1e4
    read = world.read(Turn(story, 1))
    assert read.out.isfinite().all()
    read.check(1e-4)


def test_a_type_without_a_kernel_is_refused() -> None:
    with pytest.raises(UnsupportedAttention, match="float16"):
        FastAttention(BlockPool(shape(dtype=torch.float16), 4))
