"""What each policy says an entry is worth."""

from collections.abc import Callable

import pytest
import torch

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.eviction import evict
from refdesk.memory.policies import POLICIES
from refdesk.memory.policies.infinipot import InfiniPot, InfiniPotQ
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.locret import Locret, LocretQ
from refdesk.memory.policies.random import Random
from refdesk.memory.policies.snapkv import SnapKV
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import EvictionPolicy, ObservingPolicy
from refdesk.memory.pool import BlockPool
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import held_positions, shape, write

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [(layer, head) for layer in range(2) for head in range(2)]


def probabilities(group: int, window: int, n: int) -> torch.Tensor:
    return torch.rand(group, window, n, generator=torch.Generator().manual_seed(1)).softmax(-1)


def prompt(rows: int = 60) -> Sequence:
    sequence = Sequence(BlockPool(shape(2, 2, 2), 200, 4))
    write(sequence, rows)
    return sequence


def test_case_b_of_the_methods_squares_flip_the_weakest_key() -> None:
    attention = torch.tensor([[[0.6, 0.2, 0.2], [0.0, 0.3, 0.7], [0.0, 0.3, 0.7]]])
    plain = KVCompress(pooling=1, power=1).score(torch.arange(3), attention)
    squared = KVCompress(pooling=1).score(torch.arange(3), attention)
    assert plain.tolist() == pytest.approx([0.6, 0.8, 1.6])
    assert squared.tolist() == pytest.approx([0.36, 0.22, 1.02])
    assert (int(plain.argmin()), int(squared.argmin())) == (0, 1)


def test_case_c_of_the_methods_the_order_of_pooling_and_summing_matters() -> None:
    attention = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]])
    assert KVCompress(pooling=3).score(torch.arange(3), attention).tolist() == [1, 2, 1]
    assert KVCompress(pooling=3, pool_first=False).score(torch.arange(3), attention).tolist() == [1, 1, 1]


@pytest.mark.parametrize("pool_first", [True, False])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("n", "pooling"), [(9, 1), (9, 3), (2, 7), (1, 7), (40, 7)])
def test_kv_compress_equals_its_equations(n: int, pooling: int, power: int, pool_first: bool) -> None:
    attention = probabilities(3, 4, n)
    found = KVCompress(pooling=pooling, power=power, pool_first=pool_first).score(torch.arange(n), attention)

    def near(j: int) -> range:
        return range(max(0, j - pooling // 2), min(n, j + pooling // 2 + 1))

    sums = [[sum(float(attention[a, i, j]) ** power for i in range(4)) for j in range(n)] for a in range(3)]
    if pool_first:
        expected = [sum(max(row[k] for k in near(j)) for row in sums) for j in range(n)]
    else:
        expected = [max(sum(row[k] for row in sums) for k in near(j)) for j in range(n)]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected)


def test_identical_query_heads_multiply_the_scores() -> None:
    """Methods 2.5, 9."""
    one = probabilities(1, 8, 50)
    for pool_first in (True, False):
        policy = KVCompress(pool_first=pool_first)
        alone, three = (policy.score(torch.arange(50), one.expand(group, -1, -1)) for group in (1, 3))
        assert torch.allclose(three, 3 * alone)
    alone, three = (SnapKV(queries=8).score(torch.arange(50), one.expand(group, -1, -1)) for group in (1, 3))
    assert torch.allclose(three, alone)


def test_small_probabilities_do_not_vanish_when_squared() -> None:
    attention = torch.tensor([[[1e-5, 2e-5, 1.0]]])
    scores = KVCompress(pooling=1).score(torch.arange(3), attention)
    assert 0 < scores[0] < scores[1]


def test_snapkv_is_the_mean_of_the_window_smoothed() -> None:
    attention = probabilities(2, 4, 12)
    found = SnapKV(queries=4, pooling=5).score(torch.arange(12), attention)
    mean = [float(attention[..., j].mean()) for j in range(12)]
    expected = [sum(mean[max(0, j - 2) : j + 3]) / 5 for j in range(12)]
    assert found.tolist() == pytest.approx(expected)


def test_streaming_keeps_the_first_and_the_latest() -> None:
    sequence = prompt()
    evict(sequence, Streaming(first=3), 20)
    for row in ROWS:
        assert sorted(held_positions(sequence, *row)) == [0, 1, 2, *range(43, 60)]


def test_random_draws_others_in_every_row_and_the_same_for_a_seed() -> None:
    held = []
    for seed in (1, 1, 2):
        sequence = prompt()
        evict(sequence, Random(seed=seed, keep_recent=5), 20)
        held.append([frozenset(held_positions(sequence, *row)) for row in ROWS])
        assert all(len(row) == 20 and row >= set(range(55, 60)) for row in held[-1])
        assert len(set(held[-1])) == len(ROWS)
    assert held[0] == held[1] != held[2]


def test_what_a_policy_keeps_in_any_case_is_its_option() -> None:
    kept = {policy: (policy.sinks, policy.recent, policy.window) for policy in map(_default, POLICIES)}
    assert kept == {
        KVCompress(): (0, 32, 32),
        SnapKV(): (0, 32, 32),
        Streaming(): (4, 0, 0),
        Random(): (0, 32, 0),
        Locret(): (0, 0, 0),
        LocretQ(): (0, 0, 0),
        InfiniPot(): (0, 0, 0),
        InfiniPotQ(): (0, 0, 0),
    }
    assert KVCompress(protected=8, queries=3).recent == 8
    assert KVCompress().while_decoding and not KVCompress(continual=False).while_decoding


def _default(name: str) -> EvictionPolicy:
    assert POLICIES[name].name == name
    return POLICIES[name]()


@pytest.mark.parametrize("kind", [KVCompress, SnapKV])
@pytest.mark.parametrize(("option", "value"), [("pooling", 4), ("pooling", 0), ("queries", 0)])
def test_a_value_that_cannot_be_used_is_named(
    kind: Callable[..., EvictionPolicy], option: str, value: int
) -> None:
    with pytest.raises(InvalidMemory, match=f"{option} is {value}"):
        kind(**{option: value})


def test_only_the_power_of_the_paper_and_its_variant_can_be_used() -> None:
    with pytest.raises(InvalidMemory, match="power is 3"):
        KVCompress(power=3)


@pytest.mark.parametrize("kind", POLICIES.values(), ids=lambda kind: kind.name)
def test_what_is_observed_can_be_scored(kind: type[EvictionPolicy]) -> None:
    policy = kind()
    assert isinstance(policy, ObservingPolicy) == (policy.window > 0 or policy.catalyst != "none")
