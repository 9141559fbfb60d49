"""Runs: shared by reference, counted once, and gone least recently used first."""

import numpy as np
import pytest

from refdesk.memory.pool import BlockPool
from refdesk.memory.runs import RunKey, Runs
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import held_positions, shape, write

pytestmark = pytest.mark.usefixtures("one_thread")


def pool_of(blocks: int = 200) -> BlockPool:
    return BlockPool(shape(2, 3, 2), blocks, 4)


A, B, C, D = (RunKey((number,)) for number in range(4))


def add(runs: Runs, pool: BlockPool, key: RunKey, rows: int = 4) -> Sequence:
    """A run of `rows` tokens: six blocks for every four."""
    sequence = Sequence(pool)
    write(sequence, rows)
    runs.add(key, sequence)
    return sequence


def test_what_eight_share_is_counted_once() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=0)
    add(runs, pool, A, 10)
    used = pool.used
    held = [runs.hold(A) for _ in range(8)]
    sequences = [Sequence(pool, [run], run.position) for run in held]
    assert pool.used == used == runs.blocks == 18
    for sequence in sequences:
        write(sequence, 3)
        assert held_positions(sequence, 1, 1) == list(range(13))
    assert pool.used == used + 8 * 6
    pool.check_integrity([*runs.ids(), *(sequence.own_ids() for sequence in sequences)])
    for run, sequence in zip(held, sequences, strict=True):
        assert A in runs and runs.idle_blocks == 0
        sequence.release()
        runs.let_go(run)
    assert A not in runs
    assert pool.free == pool.blocks


def test_what_became_a_run_is_no_longer_the_sequence_s() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=100)
    sequence = add(runs, pool, A, 7)
    assert not len(sequence.own_ids()) and not sequence.own.any()
    sequence.release()
    assert pool.used == runs.blocks == 12
    pool.check_integrity(runs.ids())


def test_a_run_is_what_the_sequence_owned_and_says_what_was_evicted() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=100)
    prefix = add(runs, pool, A, 5)
    assert prefix.position == 5
    sequence = Sequence(pool, [runs.hold(A)], 5)
    write(sequence, 9)
    sequence.cut(np.array([[9, 8, 4], [0, 6, 1]]))
    run = runs.add(RunKey((1,), A), sequence)
    assert (run.position, run.users, run.freed, run.freed_blocks) == (14, 0, 26, 9)
    assert run.entries.tolist() == [[9, 8, 4], [0, 6, 1]]
    assert run.blocks.tolist() == [[3, 2, 1], [0, 2, 1]]
    alone = Sequence(pool, [run], 14)
    assert held_positions(alone, 0, 2) == [5, 6, 7, 8]
    assert held_positions(alone, 1, 0) == []
    pool.check_integrity(runs.ids())


def test_a_key_has_one_run() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=100)
    add(runs, pool, A)
    with pytest.raises(ValueError, match="already"):
        add(runs, pool, A)
    with pytest.raises(KeyError):
        runs.hold(B)


def test_runs_go_least_recently_used_first() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=100)
    for key in (A, B, C):
        add(runs, pool, key)
    runs.let_go(runs.hold(A))
    runs.drop_idle(1)
    assert [key for key in (A, B, C) if key in runs] == [A, C]
    runs.drop_idle(7)
    assert len(runs) == 0 and pool.free == pool.blocks


def test_a_run_is_in_use_until_it_is_let_go() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=100)
    for key in (A, B):
        add(runs, pool, key)
    long, short = runs.hold(A), runs.hold(B)
    runs.let_go(short)
    runs.let_go(long)
    runs.drop_idle(1)
    assert A in runs and B not in runs


def test_a_run_that_somebody_holds_is_not_dropped() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=0)
    for key in (A, B):
        add(runs, pool, key)
    held = [runs.hold(A), runs.hold(A)]
    assert runs.idle_blocks == 6
    runs.drop_idle(100)
    assert A in runs and B not in runs
    runs.let_go(held[0])
    runs.drop_idle(100)
    assert A in runs and runs.idle_blocks == 0
    runs.let_go(held[1])
    assert A not in runs and pool.free == pool.blocks


def test_idle_runs_stay_within_the_limit() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=13)
    for key in (A, B, C, D):
        add(runs, pool, key)
        runs.let_go(runs.hold(key))
        assert runs.blocks <= 13
        pool.check_integrity(runs.ids())
    assert [key for key in (A, B, C, D) if key in runs] == [C, D]


def test_no_more_is_dropped_than_asked_for() -> None:
    pool = pool_of()
    runs = Runs(pool, limit=100)
    for key, rows in ((A, 4), (B, 8), (C, 4)):
        add(runs, pool, key, rows)
    runs.drop_idle(0)
    assert runs.blocks == 24
    runs.drop_idle(7)
    assert [key for key in (A, B, C) if key in runs] == [C]
    assert pool.used == 6


def test_keys_of_long_chains_are_equal_where_every_text_is() -> None:
    def chain(*first: int) -> RunKey:
        key = RunKey(first)
        for number in range(5000):  # far deeper than Python goes by recursion
            key = RunKey((number, 7), key)
        return key

    one, same, other = chain(1, 2), chain(1, 2), chain(1, 3)
    assert one == same and hash(one) == hash(same)
    assert one != other
    assert {one: "found"}[same] == "found" and other not in {one}
    assert one.chain[0] == RunKey((1, 2)) and one.chain[-1] is one and len(one.chain) == 5001
    assert one != one.behind
