"""Allotments: what is promised is never exceeded, in blocks and in positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.memory.allotment import Allotment, Layout
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.eviction import evict
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions
from refdesk.memory.policies.infinipot import InfiniPot
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.locret import Locret
from refdesk.memory.policies.random import Random
from refdesk.memory.policies.snapkv import SnapKV
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import EvictionPolicy
from refdesk.memory.pool import BlockPool
from refdesk.memory.rotation import Rotation
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import check_pool, shape, write

pytestmark = pytest.mark.usefixtures("one_thread")

policies = st.one_of(
    st.builds(KVCompress, protected=st.integers(0, 90), continual=st.booleans()),
    st.builds(SnapKV, queries=st.integers(1, 90)),
    st.builds(Streaming, first=st.integers(0, 90)),
    st.builds(Random, keep_recent=st.integers(0, 90)),
    st.builds(Locret, stabilizers=st.integers(0, 99), local=st.integers(0, 90)),
    st.builds(InfiniPot, local=st.integers(0, 90)),
)


@settings(max_examples=150)
@given(
    policies,
    st.one_of(st.integers(0, 80), st.floats(1, 30)),
    st.sampled_from([1, 3, 16, 24]),
    st.integers(1, 400),
    st.integers(1, 60),
    st.sampled_from([1, 7, 64, 512]),
    st.sampled_from([0, 0, 21]),
    st.integers(0, 1000),
)
def test_no_more_blocks_and_positions_are_used_than_promised(
    policy: EvictionPolicy,
    size: int | float,
    block_size: int,
    tokens: int,
    new: int,
    chunk: int,
    front: int,
    seed: int,
) -> None:
    """Methods 2.2.6, 1.5 (8), 6.1.5 (1): a prompt in chunks, the last tokens apart, then an answer that evicts
    before another token would take more than a block a row above the budget."""
    if isinstance(size, float):
        options = MemoryOptions(policy, rate=size)
    else:
        options = MemoryOptions(policy, budget=front + policy.local + max(policy.sinks + policy.recent, 1) + size)
    catalyst = 5 if policy.catalyst != "none" else 0
    allotment = Allotment(options, tokens, front, policy.local, catalyst=catalyst)
    allotment.check()
    pool = BlockPool(shape(2, 2, 2), 4 * (tokens + new + catalyst), block_size)
    pool.rotation = Rotation(torch.ones(1))
    reading, after = allotment.blocks(4, block_size, new, chunk)
    positions, end = allotment.positions(chunk)
    layout = Layout(options, tokens, front, catalyst=catalyst)
    assert (layout.own, layout.end(chunk, new)) == (allotment, front + max(positions, end + new))
    sequence = Sequence(pool, (), front)
    generator = torch.Generator().manual_seed(seed)

    def read(rows: int, blocks: int, most: int) -> None:
        write(sequence, rows, torch.rand(2, 2, rows, generator=generator))
        assert pool.used <= blocks
        assert sequence.position <= front + most

    thinned = max(tokens - policy.local, 0)
    for start in range(0, thinned, chunk):
        rows = min(chunk, thinned - start)
        read(rows + catalyst, reading, positions)
        sequence.forget(catalyst)
        last = start + rows == thinned
        if policy.while_reading or last:
            evict(sequence, policy, allotment.room(), last=last)
            if not policy.shared:
                kept = max(allotment.room(), policy.sinks + policy.recent)
                assert (sequence.own <= kept).all()
    read(tokens - thinned, max(reading, after), max(positions, end))
    assert pool.used <= after
    for generated in range(1, new + 1):
        room = allotment.room(generated)
        most = (-(-room // block_size) + 1) * 4
        if policy.while_decoding and int(sequence.own_blocks.sum()) + sequence.missing(1) > most:
            evict(sequence, policy, room)
        read(1, after, end + generated)
    check_pool(pool, [sequence])


@given(st.integers(1, 400), st.integers(0, 60), st.sampled_from([1, 16, 24]))
def test_what_keeps_everything_is_promised_everything(tokens: int, new: int, block_size: int) -> None:
    sequence = Sequence(BlockPool(shape(1, 3, 1), 3 * (tokens + new), block_size))
    write(sequence, tokens + new)
    used = sequence.pool.used
    assert Allotment(KEEP_EVERYTHING, tokens).blocks(3, block_size, new, 64) == (used, used)


def test_what_stands_in_front_counts_unless_a_rate_leaves_too_little() -> None:
    locret = Locret(local=10)
    assert Allotment(MemoryOptions(locret, budget=100), 900, front=40, local=10).room() == 50
    assert Allotment(MemoryOptions(locret, rate=2), 900, front=100, local=10).room() == 496 - 110
    assert Allotment(MemoryOptions(locret, rate=900), 900, front=500, local=10).room() == 16
    assert Allotment(MemoryOptions(locret, budget=100), 900, parts=4).room() == 25


def test_a_budget_that_the_instructions_use_up_is_refused_with_the_numbers() -> None:
    options = MemoryOptions(Locret(local=10), budget=50)
    Allotment(options, 900, front=39, local=10).check()
    with pytest.raises(InvalidMemory, match="budget is 50; expected at least 51: 40 tokens stand in front, and"):
        Allotment(options, 900, front=40, local=10).check()


def test_a_compact_policy_takes_no_more_positions_however_long_the_text_is() -> None:
    locret = MemoryOptions(Locret(local=10), budget=100)
    ends = [Layout(locret, tokens, 40).end(chunk=64, new=20) for tokens in (10**3, 10**6)]
    assert ends == [100 + 64] * 2
    assert Layout(locret, 70, 40).end(chunk=64, new=20) == 120
    assert Layout(MemoryOptions(Streaming(), budget=100), 10**6, 40).end(64, 20) == 40 + 10**6 + 20
    apart = Layout(locret, 30, 40, passages=(10**6, 10), parts=2)
    assert apart.end(64, 20) == 40 + max(50 + 64, 50 + 30 + 20)
