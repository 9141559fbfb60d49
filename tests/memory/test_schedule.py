"""The choice of what goes, by itself: `blocks_to_evict` and `best`."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.memory.eviction import best, blocks_to_evict

pytestmark = pytest.mark.usefixtures("one_thread")

Rows = list[list[float]]
NEVER = float("inf")

rows_of_scores = st.lists(
    st.lists(st.one_of(st.sampled_from([0.0, 0.5, NEVER]), st.floats(0, 1, width=32)), max_size=11),
    min_size=1,
    max_size=5,
).filter(any)


def padded(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    scores = torch.tensor([row + [-7.0] * (longest - len(row)) for row in rows]).view(len(rows), longest)
    return scores, torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]


def evicted(rows: Rows, block_size: int, wanted: int, keep_one: bool = False) -> list[list[int]]:
    """The places evicted of each row."""
    scores, exists = padded(rows)
    gone = blocks_to_evict(scores, exists, block_size, wanted, torch.full((len(rows),), keep_one))
    assert gone.shape == exists.shape and not (gone & ~exists).any()
    return [row.nonzero().flatten().tolist() for row in gone]


def cost(count: int, block_size: int, blocks: int) -> int:
    """n(e): entries that go with so many blocks of a row of `count`."""
    return ((count - 1) % block_size + 1 + (blocks - 1) * block_size) if blocks else 0


def prices(row: list[float], block_size: int) -> list[float]:
    """m(e) of each block of a row, first to go first."""
    blocks = -(-len(row) // block_size)
    return [sorted(row)[cost(len(row), block_size, e) - 1] for e in range(1, blocks + 1)]


def freed(row: list[float], block_size: int, gone: list[int]) -> int:
    return -(-len(row) // block_size) - -(-(len(row) - len(gone)) // block_size)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (0, [[], []]),
        (1, [[1], []]),
        (2, [[1, 2, 3], []]),
        (3, [[1, 2, 3], [0, 1]]),
        (4, [[0, 1, 2, 3, 4], [0, 1]]),
    ],
)
def test_case_a_of_the_methods(wanted: int, expected: list[list[int]]) -> None:
    assert evicted([[0.9, 0.1, 0.4, 0.2, 0.7], [0.3, 0.6]], 2, wanted) == expected


@pytest.mark.parametrize("wanted", [2, 3, 4, 100])
def test_case_a_where_no_head_may_be_emptied(wanted: int) -> None:
    assert evicted([[0.9, 0.1, 0.4, 0.2, 0.7], [0.3, 0.6]], 2, wanted, keep_one=True) == [[1, 2, 3], []]


@settings(max_examples=300)
@given(rows_of_scores, st.integers(1, 5), st.integers(-1, 30), st.booleans())
def test_as_many_blocks_come_free_as_were_asked_for_or_can(
    rows: Rows, block_size: int, wanted: int, keep_one: bool
) -> None:
    """Methods 2.5, 3, 4 and 8."""
    gone = evicted(rows, block_size, wanted, keep_one)
    finite = 0
    for row in rows:
        price = prices(row, block_size)
        assert price == sorted(price)
        finite += sum(number < NEVER for number in price[: len(price) - keep_one])
    counts = [freed(row, block_size, places) for row, places in zip(rows, gone, strict=True)]
    assert sum(counts) == min(max(wanted, 0), finite)
    for row, places, count in zip(rows, gone, counts, strict=True):
        assert len(places) == cost(len(row), block_size, count)
        assert (len(row) - len(places)) % block_size == 0 or not count
        assert sorted(row[place] for place in places) == sorted(row)[: len(places)]
        assert all(row[place] < NEVER for place in places)
    taken = [price for row, count in zip(rows, counts, strict=True) for price in prices(row, block_size)[:count]]
    assert (
        sorted(taken)
        == sorted(
            price for row in rows for price in prices(row, block_size)[: len(prices(row, block_size)) - keep_one]
        )[: len(taken)]
    )


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.floats(0, 1, width=32), max_size=4), min_size=1, max_size=3).filter(any),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_no_other_choice_that_frees_as_many_evicts_less_important_entries(
    rows: Rows, block_size: int, wanted: int
) -> None:
    """Methods 2.5, 5: against every choice of blocks and of entries for them."""
    gone = evicted(rows, block_size, wanted)
    counts = [freed(row, block_size, places) for row, places in zip(rows, gone, strict=True)]
    worst = max((row[place] for row, places in zip(rows, gone, strict=True) for place in places), default=0.0)
    for choice in product(*(range(-(-len(row) // block_size) + 1) for row in rows)):
        if sum(choice) != sum(counts) or not sum(choice):
            continue
        sets = (combinations(row, cost(len(row), block_size, e)) for row, e in zip(rows, choice, strict=True))
        assert worst <= min(max(number for some in entries for number in some) for entries in product(*sets))


@settings(max_examples=100)
@given(rows_of_scores, st.integers(0, 40))
def test_with_blocks_of_one_entry_the_lowest_of_all_go(rows: Rows, wanted: int) -> None:
    """Methods 2.5, 7."""
    gone = [row[place] for row, places in zip(rows, evicted(rows, 1, wanted), strict=True) for place in places]
    finite = sorted(number for row in rows for number in row if number < NEVER)
    assert sorted(gone) == finite[:wanted]


def test_layers_and_heads_are_rows_alike() -> None:
    scores = torch.rand(3, 2, 21, generator=torch.Generator().manual_seed(1))
    exists, alone = torch.ones(3, 2, 21, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)
    gone = blocks_to_evict(scores, exists, 4, 20, alone)
    flat = blocks_to_evict(scores.view(6, 21), exists.view(6, 21), 4, 20, alone.view(6))
    assert gone.shape == scores.shape and torch.equal(gone.view(6, 21), flat)


@settings(max_examples=100)
@given(rows_of_scores, st.lists(st.integers(0, 12), min_size=5, max_size=5))
def test_the_best_of_each_row_stay_and_the_protected_besides(rows: Rows, room: list[int]) -> None:
    scores, exists = padded(rows)
    keep = exists & best(scores, exists, torch.tensor(room[: len(rows)]))
    for row, kept, most in zip(rows, keep.tolist(), room, strict=False):
        stay = [score for score, stays in zip(row, kept, strict=False) if stays]
        protected = row.count(NEVER)
        assert sorted(stay) == sorted(row)[len(row) - min(len(row), max(most, protected)) :]
