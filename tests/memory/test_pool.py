"""The pool: what is taken is nobody else's, what is given back can be taken again, and it all adds up."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refdesk.memory.errors import OutOfBlocks
from refdesk.memory.pool import BlockPool, Ids, block_bytes
from tests.memory.worlds import shape

pytestmark = pytest.mark.usefixtures("one_thread")

POOL = shape(1, 1, 4)


@given(st.lists(st.integers(-5, 12), max_size=40))
def test_blocks_are_free_or_owned_once_whatever_is_taken_and_given(moves: list[int]) -> None:
    pool = BlockPool(POOL, 30, 2)
    owned: list[Ids] = []
    for move in moves:
        if move >= 0 and move <= pool.free:
            owned.append(pool.take(move))
            assert (pool.fill[owned[-1]] == 0).all()
            pool.fill[owned[-1]] = 2
        elif move < 0 and owned:
            pool.give(owned.pop(move % len(owned)))
        pool.check_integrity(owned)
        assert pool.used == sum(map(len, owned)) == 30 - pool.free


def test_neighbours_come_out_together() -> None:
    pool = BlockPool(POOL, 9)
    first, second = pool.take(3), pool.take(4)
    assert first.tolist() == [0, 1, 2] and second.tolist() == [3, 4, 5, 6]
    pool.give(second[[2, 0, 3, 1]])
    assert pool.take(4).tolist() == [3, 4, 5, 6]


def test_taking_more_than_is_free_takes_nothing_and_says_what_was_asked() -> None:
    pool = BlockPool(POOL, 5)
    owned = pool.take(3)
    with pytest.raises(OutOfBlocks, match="3 blocks were asked for, 2 of 5 are free"):
        pool.take(3)
    assert pool.free == 2
    pool.check_integrity([owned])


def test_giving_back_more_than_is_in_use_is_refused() -> None:
    pool = BlockPool(POOL, 5)
    owned = pool.take(2)
    with pytest.raises(ValueError, match="3 blocks given back, but only 2"):
        pool.give(np.array([0, 1, 2], np.int32))
    pool.check_integrity([owned])


def test_integrity_names_what_is_lost_and_what_is_owned_twice() -> None:
    pool = BlockPool(POOL, 6)
    owned = pool.take(3)
    with pytest.raises(AssertionError, match=r"1 blocks are neither free nor owned, such as \[2\]"):
        pool.check_integrity([owned[:2]])
    with pytest.raises(AssertionError, match=r"1 blocks are owned twice, such as \[0\]"):
        pool.check_integrity([owned, owned[:1]])


@pytest.mark.parametrize(("blocks", "block_size"), [(0, 16), (4, 0)])
def test_an_empty_pool_is_refused(blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match=f"{blocks} blocks of {block_size}"):
        BlockPool(POOL, blocks, block_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_of_a_block_are_those_of_its_tensors(dtype: torch.dtype) -> None:
    pool = BlockPool(shape(30, 3, 64, dtype), 7, 16)
    stored = sum(store.nbytes for store in (pool.keys, pool.values, pool.positions, pool.scores, pool.novelty))
    assert pool.block_bytes * pool.blocks == stored
    assert pool.shape.slots == 90


@given(st.integers(0, 100_000))
def test_a_pool_of_bytes_is_the_largest_that_fits_but_has_a_block(size: int) -> None:
    pool, one = BlockPool.of_bytes(POOL, size, 4), block_bytes(POOL, 4)
    assert pool.blocks * one <= max(size, one) < (pool.blocks + 1) * one
