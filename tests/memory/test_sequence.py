"""A sequence: rows of different lengths, others' entries in front, and blocks that come and go."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.memory.errors import OutOfBlocks
from refdesk.memory.pool import BlockPool
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import check_pool, held_positions, shape, write

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS = [(layer, head) for layer in range(2) for head in range(3)]


def pool_of(blocks: int = 200, block_size: int = 4) -> BlockPool:
    return BlockPool(shape(2, 3, 2), blocks, block_size)


def lengths(*numbers: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    return np.array(numbers, np.int64).reshape(2, 3)


@settings(max_examples=60)
@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["grow", "cut", "release"]), st.integers(0, 9)), max_size=30
    ),
)
def test_every_row_holds_what_was_written_and_not_cut(block_size: int, moves: list[tuple[int, str, int]]) -> None:
    pool = pool_of(600, block_size)
    sequences = [Sequence(pool) for _ in range(3)]
    model: list[dict[tuple[int, int], list[int]]] = [{row: [] for row in HEADS} for _ in sequences]
    random = np.random.default_rng(len(moves))
    for index, move, rows in moves:
        sequence, expected = sequences[index], model[index]
        if move == "grow":
            before, missing = pool.free, sequence.missing(rows)
            new = range(sequence.position, sequence.position + rows)
            write(sequence, rows)
            assert before - pool.free == missing
            for held in expected.values():
                held.extend(new)
        elif move == "cut":
            own = random.integers(0, sequence.own + 1)
            freed, blocks, free = sequence.freed, sequence.freed_blocks, pool.free
            sequence.cut(own)
            assert sequence.freed_blocks - blocks == pool.free - free
            assert sequence.freed - freed == sum(map(len, expected.values())) - own.sum()
            for row in HEADS:
                del expected[row][own[row] :]
        else:
            sequence.release()
            expected.update({row: [] for row in HEADS})
        for other, rows_held in zip(sequences, model, strict=True):
            assert {row: held_positions(other, *row) for row in HEADS} == rows_held
        check_pool(pool, sequences)
    for sequence in sequences:
        sequence.release()
    assert pool.free == pool.blocks


def test_own_slots_are_those_held_behind_the_shared() -> None:
    pool = pool_of()
    front = Sequence(pool)
    write(front, 6)
    front.cut(lengths(1, 4, 5, 6, 2, 3))
    sequence = Sequence(pool, [front], front.position)
    write(sequence, 7)
    sequence.cut(lengths(7, 0, 4, 1, 5, 6))
    slots, exists = sequence.own_slots()
    assert (exists.sum(-1).numpy() == sequence.own).all()
    for layer, head in HEADS:
        held = sequence.held_slots(layer, head)
        own = int(sequence.own[layer, head])
        assert held[len(held) - own :].tolist() == slots[layer, head, :own].tolist()
        assert held[: len(held) - own].tolist() == front.held_slots(layer, head).tolist()
        kept = list(range(front.own[layer, head]))
        assert held_positions(sequence, layer, head) == kept + list(range(6, 6 + own))


def test_what_is_in_front_belongs_to_others() -> None:
    pool = pool_of()
    first, second = Sequence(pool), Sequence(pool)
    write(first, 5)
    write(second, 9)
    used = pool.used
    sequence = Sequence(pool, [first, second], position=9)
    assert pool.used == used
    assert (sequence.entries == 14).all() and (sequence.blocks == 5).all() and not len(sequence.own_ids())
    assert (sequence.start, sequence.position) == (9, 9)
    write(sequence, 1)
    assert held_positions(sequence, 1, 2) == [*range(5), *range(9), 9]
    assert (sequence.start, sequence.position) == (9, 10)
    sequence.release()
    assert pool.used == used
    check_pool(pool, [first, second])
    assert held_positions(first, 0, 0) == list(range(5))


def test_what_others_hold_can_stand_further_on_for_one_sequence_and_not_for_another() -> None:
    pool = pool_of()
    first, second = Sequence(pool), Sequence(pool)
    write(first, 5)
    write(second, 9)
    here, there = Sequence(pool, [first, second], 14, (0, 5)), Sequence(pool, [second, first], 114, (100, 9))
    for sequence in (here, there):
        write(sequence, 40)
    own = [0] * 40
    assert here.held_shifts(1, 2).tolist() == [0] * 5 + [5] * 9 + own
    assert there.held_shifts(1, 2).tolist() == [100] * 9 + [9] * 5 + own
    assert (here.places.tolist(), there.places.tolist()) == ([0, 5], [0, 9, 100])
    fork = Sequence(pool, [there], 120, (7,))
    write(fork, 2)
    assert fork.held_shifts(0, 0).tolist() == [107] * 9 + [16] * 5 + [7] * 40 + [0] * 2
    assert fork.places.tolist() == [0, 7, 16, 107]
    with pytest.raises(ValueError, match="shorter"):
        Sequence(pool, [first, second], 14, (0,))


def test_a_fork_of_a_fork_holds_everything_in_front_of_both() -> None:
    pool = pool_of()
    sequences = [Sequence(pool)]
    for rows in (3, 5, 2):
        write(sequences[-1], rows)
        sequences.append(Sequence(pool, [sequences[-1]], sequences[-1].position))
    write(sequences[-1], 4)
    assert held_positions(sequences[-1], 1, 1) == list(range(14))
    check_pool(pool, sequences)


def test_a_table_grows_to_any_length() -> None:
    pool = pool_of(6 * 100, 1)
    sequence = Sequence(pool)
    for rows in (1, 7, 1, 40, 51):
        write(sequence, rows)
    assert held_positions(sequence, 0, 2) == list(range(100))
    assert pool.free == 0


def test_growing_without_room_changes_nothing() -> None:
    pool = pool_of(20)
    sequence = Sequence(pool)
    write(sequence, 10)
    table, blocks = sequence.table.copy(), sequence.own_blocks.copy()
    with pytest.raises(OutOfBlocks, match="6 blocks were asked for, 2 of 20"):
        sequence.grow(3)
    assert pool.free == 2
    assert (sequence.table == table).all() and (sequence.own_blocks == blocks).all()
    assert (sequence.own == 10).all() and sequence.position == 10
    sequence.grow(2)
    assert held_positions(sequence, 0, 0) == list(range(10))


def test_what_is_copied_out_and_put_elsewhere_is_held_as_if_it_had_been_written_there() -> None:
    sequences = []
    for copied in (False, True):
        pool = pool_of(block_size=3)
        front, sequence = Sequence(pool), Sequence(pool, position=5)
        write(front, 5)
        behind = Sequence(pool, [front], position=5)
        for one in (sequence, *(() if copied else (behind,))):
            write(one, 7)
        if copied:
            behind.put(*sequence.copy())
        assert (behind.position, behind.own.tolist()) == (12, [[7] * 3] * 2)
        check_pool(pool, [front, sequence, behind])
        sequences.append(behind)
    for row in HEADS:
        written, put = (
            [store.flatten(0, 1)[one.held_slots(*row)] for store in (pool.keys, pool.values, pool.positions)]
            for one in sequences
            for pool in [one.pool]
        )
        assert all(torch.equal(one, other) for one, other in zip(written, put, strict=True))
    keys, values = sequences[1].copy(4)
    assert keys[1, 2, :, 0].tolist() == [9, 10, 11] == (-values[1, 2, :, 0]).tolist()


def test_putting_without_room_changes_nothing() -> None:
    pool = pool_of(20)
    sequence = Sequence(pool)
    write(sequence, 10)
    with pytest.raises(OutOfBlocks):
        sequence.put(*sequence.copy())
    assert (pool.free, sequence.position) == (2, 10)
    assert held_positions(sequence, 0, 0) == list(range(10))


def test_making_room_twice_makes_it_once() -> None:
    pool = pool_of()
    sequence = Sequence(pool)
    sequence.grow(9)
    used = pool.used
    assert sequence.missing(9) == 0
    sequence.grow(9)
    assert pool.used == used == 18
    write(sequence, 9)
    assert pool.used == used
    check_pool(pool, [sequence])


def test_blocks_given_back_come_to_another_empty() -> None:
    pool = pool_of(12)
    first = Sequence(pool)
    write(first, 8)
    first.release()
    second = Sequence(pool)
    second.grow(5)
    assert not len(second.held_slots(0, 0))
    write(second, 5)
    assert held_positions(second, 1, 0) == list(range(5))


def test_slots_are_where_the_next_entries_will_be_held() -> None:
    pool = pool_of(block_size=3)
    sequence = Sequence(pool)
    write(sequence, 7)
    sequence.cut(lengths(7, 3, 0, 1, 6, 2))
    sequence.grow(5)
    slots = sequence.slots(5)
    before = {row: sequence.held_slots(*row).tolist() for row in HEADS}
    sequence.advance(5)
    for row in HEADS:
        assert sequence.held_slots(*row).tolist() == before[row] + slots[row].tolist()
    assert len(np.unique(slots)) == slots.size
    assert torch.equal(sequence.own_slots()[1].sum(-1), torch.from_numpy(sequence.own))
