"""Memory options: what is wrong is named, and what is promised is never exceeded."""

from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.eviction import evict
from refdesk.memory.options import MemoryOptions, memory_options
from refdesk.memory.policies import POLICIES
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.random import Random
from refdesk.memory.policies.snapkv import SnapKV
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import EvictionPolicy
from refdesk.memory.pool import BlockPool
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import check_pool, shape, write

pytestmark = pytest.mark.usefixtures("one_thread")


def test_nothing_asked_keeps_everything() -> None:
    for asked in (None, {}, {"policy": "none"}):
        assert memory_options(asked) == MemoryOptions()
    assert MemoryOptions().budget_for(12_345) == 12_345


def test_a_budget_or_a_rate_alone_means_kv_compress() -> None:
    assert memory_options({"budget": 512}) == MemoryOptions(KVCompress(), budget=512)
    assert memory_options({"rate": 8}) == MemoryOptions(KVCompress(), rate=8)
    assert memory_options({"rate": 2.5, "queries": 32}) == MemoryOptions(KVCompress(queries=32), rate=2.5)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_asked_for_by_name(name: str) -> None:
    for size in ({"budget": 300}, {"rate": 4}):
        assert memory_options({"policy": name, **size}).policy == POLICIES[name]()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"policy": "h2o", "budget": 64}, "'h2o'"),
        ({"policy": None, "budget": 64}, "None"),
        ({"policy": 7, "budget": 64}, "policy is 7"),
        ({"policy": ["snapkv"], "budget": 64}, "snapkv"),
        ({"policy": {"name": "snapkv"}, "budget": 64}, "snapkv"),
        ({"policy": "snapkv"}, "snapkv needs a budget or a rate"),
        ({"policy": "snapkv", "budget": 64, "rate": 2}, "not both"),
        ({"queries": 8}, "needs a budget or a rate"),
        ({"policy": "none", "budget": 64}, "budget"),
        ({"policy": "none", "rate": 2}, "rate"),
        ({"policy": "none", "queries": 8, "pooling": 3}, "pooling, queries"),
        ({"policy": "snapkv", "budget": 64, "protected": 8}, "'protected' is unknown to snapkv"),
        ({"policy": "streaming", "budget": 64, "sinks": 8}, "'sinks'"),
        ({"budget": "512"}, "'512'"),
        ({"budget": 512.0}, "512.0"),
        ({"budget": True}, "True"),
        ({"budget": [512]}, "512"),
        ({"budget": 0}, "budget is 0"),
        ({"budget": -5}, "budget is -5"),
        ({"budget": 10**30}, "at most 100,000,000"),
        ({"rate": "2"}, "'2'"),
        ({"rate": True}, "True"),
        ({"rate": [2]}, "2"),
        ({"rate": nan}, "nan"),
        ({"rate": inf}, "inf"),
        ({"rate": -inf}, "-inf"),
        ({"rate": 0.5}, "0.5"),
        ({"rate": 0}, "rate is 0"),
        ({"rate": 1025}, "1025"),
        ({"rate": 2, "queries": True}, "queries is True"),
        ({"rate": 2, "queries": 8.0}, "queries is 8.0"),
        ({"rate": 2, "queries": "8"}, "queries is '8'"),
        ({"rate": 2, "queries": None}, "queries is None"),
        ({"rate": 2, "queries": 0}, "queries is 0"),
        ({"rate": 2, "queries": -1}, "queries is -1"),
        ({"rate": 2, "queries": 65537}, "queries is 65537"),
        ({"rate": 2, "pooling": 4}, "pooling is 4"),
        ({"rate": 2, "power": 3}, "power is 3"),
        ({"rate": 2, "protected": nan}, "protected is nan"),
        ({"rate": 2, "pool_first": 1}, "pool_first is 1"),
        ({"rate": 2, "continual": "yes"}, "continual is 'yes'"),
        ({"policy": "snapkv", "rate": 2, "pooling": 2}, "pooling is 2"),
        ({"policy": "streaming", "rate": 2, "first": -4}, "first is -4"),
        ({"policy": "random", "rate": 2, "seed": 1.5}, "seed is 1.5"),
        ({"budget": 31}, "budget is 31; expected at least 32"),
        ({"budget": 63, "protected": 64}, "budget is 63; expected at least 64"),
        ({"policy": "snapkv", "budget": 7, "queries": 8}, "budget is 7; expected at least 8"),
        ({"policy": "streaming", "budget": 3}, "budget is 3; expected at least 4"),
        ({"policy": "random", "budget": 31}, "budget is 31; expected at least 32"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidMemory) as error:
        memory_options(asked)
    assert named in str(error.value)
    assert isinstance(error.value, ValueError)


@given(
    st.dictionaries(
        st.sampled_from(["policy", "budget", "rate", "queries", "pooling", "first", "seed", "power", "x"]),
        st.one_of(
            st.sampled_from(["none", *POLICIES]),
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(),
            st.lists(st.integers(), max_size=2),
            st.dictionaries(st.text(), st.none(), max_size=1),
        ),
    )
)
def test_anything_is_understood_or_refused(asked: dict[str, Any]) -> None:
    try:
        options = memory_options(asked)
    except InvalidMemory:
        return
    assert (options.policy is None) == (asked.get("policy", "none" if not asked else "") == "none")


@pytest.mark.parametrize(
    ("tokens", "rate", "budget"), [(6000, 64, 128), (6000, 8, 736), (2000, 4, 496), (500, 2, 240), (50, 64, 128)]
)
def test_case_d_of_the_methods(tokens: int, rate: int, budget: int) -> None:
    assert memory_options({"rate": rate}).budget_for(tokens) == budget


def test_a_rate_of_one_keeps_everything() -> None:
    assert [memory_options({"rate": rate}).budget_for(5001) for rate in (1, 1.0)] == [5001, 5001]


def test_stretches_share_a_budget() -> None:
    assert [MemoryOptions(KVCompress(), budget=512).budget_for(900, parts) for parts in (1, 4, 100)] == [
        512,
        128,
        32,
    ]
    assert [MemoryOptions(KVCompress(), rate=8).budget_for(300, parts) for parts in (1, 2, 4)] == [128, 64, 32]
    assert MemoryOptions(KVCompress(), rate=2).budget_for(900, 8) == 448


policies = st.one_of(
    st.builds(KVCompress, protected=st.integers(0, 200), continual=st.booleans()),
    st.builds(SnapKV, queries=st.integers(1, 200)),
    st.builds(Streaming, first=st.integers(0, 200)),
    st.builds(Random, keep_recent=st.integers(0, 200)),
)


@given(policies, st.integers(0, 3000), st.integers(1, 9), st.floats(1, 1024))
def test_whatever_a_budget_is_it_has_room_for_what_is_kept_in_any_case(
    policy: EvictionPolicy, tokens: int, parts: int, rate: float
) -> None:
    budget = MemoryOptions(policy, rate=rate).budget_for(tokens, parts)
    assert budget >= min(tokens, policy.sinks + policy.recent)


@settings(max_examples=150, deadline=None)
@given(
    policies,
    st.one_of(st.integers(0, 80), st.floats(1, 30)),
    st.sampled_from([1, 3, 16, 24]),
    st.integers(1, 400),
    st.integers(1, 60),
    st.sampled_from([1, 7, 64, 512]),
    st.integers(0, 1000),
)
def test_no_more_blocks_are_used_than_promised(
    policy: EvictionPolicy,
    size: int | float,
    block_size: int,
    tokens: int,
    new: int,
    chunk: int,
    seed: int,
) -> None:
    """Methods 2.2.6: a prompt in chunks, then an answer that evicts before another token would take more than a
    block a row above the budget."""
    least = max(policy.sinks + policy.recent, 1)
    if isinstance(size, float):
        options = MemoryOptions(policy, rate=size)
    else:
        options = MemoryOptions(policy, budget=least + size)
    pool = BlockPool(shape(2, 2, 1), 4 * (tokens + new), block_size)
    reading, after = options.peak_blocks(4, block_size, tokens, new, chunk)
    sequence = Sequence(pool)
    generator = torch.Generator().manual_seed(seed)

    def read(rows: int) -> None:
        write(sequence, rows, torch.rand(2, 2, rows, generator=generator))

    for start in range(0, tokens, chunk):
        read(min(chunk, tokens - start))
        assert pool.used <= reading
        if policy.while_reading:
            evict(sequence, policy, options.budget_for(tokens))
    evict(sequence, policy, options.budget_for(tokens))
    assert pool.used <= after
    for total in range(tokens + 1, tokens + new + 1):
        budget = options.budget_for(total)
        most = (-(-budget // block_size) + 1) * 4
        if policy.while_decoding and int(sequence.blocks.sum()) + sequence.missing(1) > most:
            evict(sequence, policy, budget)
        read(1)
        assert pool.used <= after
    check_pool(pool, [sequence])


@given(st.integers(1, 400), st.integers(0, 60), st.sampled_from([1, 16, 24]))
def test_what_keeps_everything_is_promised_everything(tokens: int, new: int, block_size: int) -> None:
    sequence = Sequence(BlockPool(shape(1, 3, 1), 3 * (tokens + new), block_size))
    write(sequence, tokens + new)
    assert MemoryOptions().peak_blocks(3, block_size, tokens, new, 64) == (sequence.pool.used, sequence.pool.used)
