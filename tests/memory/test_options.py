"""Memory options: what is wrong is named, and every size is a budget that can be used."""

from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import AS_NEEDED, KEEP_EVERYTHING, MemoryOptions, memory_options
from refdesk.memory.policies import POLICIES
from refdesk.memory.policies.infinipot import InfiniPotQ
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.locret import Locret
from refdesk.memory.policies.random import Random
from refdesk.memory.policies.snapkv import SnapKV
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import EvictionPolicy


def test_none_keeps_everything_and_nothing_asked_is_auto() -> None:
    assert memory_options({"policy": "none"}) == KEEP_EVERYTHING
    for asked in (None, {}, {"policy": "auto"}):
        assert memory_options(asked) == AS_NEEDED != KEEP_EVERYTHING
    for options in (KEEP_EVERYTHING, AS_NEEDED):
        assert options.budget_for(12_345) == 12_345


def test_auto_may_be_given_a_size() -> None:
    assert memory_options({"policy": "auto", "budget": 64}) == MemoryOptions(budget=64, auto=True)
    assert memory_options({"policy": "auto", "rate": 4}).budget_for(1000) == 240


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
        ({"policy": "auto", "budget": 64, "rate": 2}, "not both"),
        ({"policy": "auto", "budget": 0}, "budget is 0"),
        ({"policy": "auto", "queries": 8}, "queries, but policy auto has no options"),
        ({"policy": "locret", "budget": 64, "stabilizers": 100}, "stabilizers is 100; expected 0 to 99 percent"),
        ({"policy": "locret_q", "budget": 64, "sinks": 4}, "known: stabilizers, local"),
        ({"policy": "infinipot", "budget": 64, "novelty": 101}, "novelty is 101; expected 0 to 100 percent"),
        ({"policy": "infinipot_q", "budget": 64, "local": -1}, "local is -1"),
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
        ({"rate": 2, "queries": 513}, "queries is 513; expected 1 to 512"),
        ({"policy": "snapkv", "rate": 2, "queries": 65536}, "queries is 65536; expected 1 to 512"),
        ({"rate": 2, "pooling": 4}, "pooling is 4"),
        ({"rate": 2, "pooling": -1}, "pooling is -1; expected an odd number, 511 at most"),
        ({"policy": "snapkv", "rate": 2, "pooling": 513}, "pooling is 513; expected an odd number, 511 at most"),
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
            st.sampled_from(["none", "auto", *POLICIES]),
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
    assert (options.policy is None) == (asked.get("policy", "" if asked else "auto") in ("none", "auto"))


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
    st.builds(Locret, stabilizers=st.integers(0, 99), local=st.integers(0, 200)),
    st.builds(InfiniPotQ, local=st.integers(0, 200)),
)


@given(policies, st.integers(0, 3000), st.integers(1, 9), st.floats(1, 1024))
def test_whatever_a_budget_is_it_has_room_for_what_is_kept_in_any_case(
    policy: EvictionPolicy, tokens: int, parts: int, rate: float
) -> None:
    budget = MemoryOptions(policy, rate=rate).budget_for(tokens, parts)
    assert budget >= min(tokens, policy.sinks + policy.recent)
