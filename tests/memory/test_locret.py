"""Locret's evictions, by themselves: scores are given, nothing is computed. Methods 1.5; the rest of it is in
tests/reader/test_compact.py."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.eviction import evict
from refdesk.memory.policies.locret import Locret, LocretQ
from refdesk.memory.pool import BlockPool
from refdesk.memory.rotation import Rotation
from refdesk.memory.sequence import Sequence
from tests.memory.worlds import check_pool, shape

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 8
ROTATION = Rotation(1 / 100 ** (torch.arange(DIM // 2) / (DIM // 2)))
Scores = list[list[float]]
Kept = list[list[int]]


class Tape:
    """One layer whose heads are told the scores of tokens 0, 1, 2, … as they come. A value is its token; a key is
    the token's own vector, turned for its position."""

    def __init__(self, scores: Scores, block_size: int = 4, front: int = 0) -> None:
        self._scores = torch.tensor([scores], dtype=torch.float32)
        heads, tokens = len(scores), len(scores[0])
        pool = BlockPool(shape(1, heads, DIM), 400, block_size)
        pool.rotation = ROTATION
        self._vectors = torch.randn(1, heads, tokens, DIM, generator=torch.Generator().manual_seed(3))
        before = Sequence(pool)
        if front:
            before.grow(front)
            for store in (pool.keys, pool.values):
                store.view(-1, DIM)[torch.from_numpy(before.slots(front))] = 7.0
            before.advance(front)
        self.front = before
        self.sequence = Sequence(pool, [before], front)
        self.done = 0  # tokens read

    def read(self, rows: int) -> None:
        sequence, pool = self.sequence, self.sequence.pool
        sequence.grow(rows)
        slots, new = torch.from_numpy(sequence.slots(rows)), slice(self.done, self.done + rows)
        positions = torch.arange(sequence.position, sequence.position + rows)
        pool.scores.view(-1)[slots] = self._scores[..., new]
        pool.positions.view(-1)[slots] = positions.int().expand(slots.shape)
        pool.values.view(-1, DIM)[slots] = (
            torch.arange(new.start, new.stop)[:, None].expand(*slots.shape, DIM).float()
        )
        pool.keys.view(-1, DIM)[slots] = ROTATION.turn(self._vectors[:, :, new], positions)
        sequence.advance(rows)
        self.done += rows

    def kept(self) -> Kept:
        """The tokens of each head, in the order of their positions; checks all that belongs to them."""
        pool, found = self.sequence.pool, []
        slots, exists = self.sequence.own_slots()
        assert exists.all()
        first, n = self.sequence.start, slots.shape[-1]
        assert self.sequence.position == first + n
        for head, row in enumerate(slots[0]):
            row = row[pool.positions.view(-1)[row].argsort()]
            assert pool.positions.view(-1)[row].tolist() == list(range(first, first + n))
            tokens = pool.values.view(-1, DIM)[row][:, 0].long()
            keys = ROTATION.turn(self._vectors[0, head, tokens], torch.arange(first, first + n))
            assert torch.allclose(pool.keys.view(-1, DIM)[row], keys, atol=1e-5)
            assert torch.equal(pool.scores.view(-1)[row], self._scores[0, head, tokens])
            found.append(tokens.tolist())
        check_pool(pool, [self.front, self.sequence])
        return found


def read_all(tape: Tape, policy: Locret, room: int, chunk: int, tokens: int) -> list[Kept]:
    """What is kept after each eviction."""
    kept = []
    for start in range(0, tokens, chunk):
        rows = min(chunk, tokens - start)
        tape.read(rows)
        assert (tape.sequence.own <= room + chunk).all()
        evict(tape.sequence, policy, room, last=start + rows == tokens)
        kept.append(tape.kept())
    return kept


def test_case_a_of_the_methods() -> None:
    scores: Scores = [[5, 1, 4, 0, 3, 2, 9, 1, 0, 6], [0, 9, 2, 8, 1, 7, 0, 3, 4, 5]]
    tape = Tape(scores)
    policy = Locret(stabilizers=50, local=1)
    assert policy.stable(4) == 2
    kept = read_all(tape, policy, 4, 3, 9)
    assert kept == [[[0, 1, 2], [0, 1, 2]], [[0, 2, 4, 5], [1, 3, 4, 5]], [[0, 2, 4, 6], [1, 3, 5, 8]]]
    tape.read(1)
    assert tape.kept() == [[0, 2, 4, 6, 9], [1, 3, 5, 8, 9]]


numbers = st.lists(st.integers(0, 10**6), min_size=60, max_size=60, unique=True)


@settings(max_examples=40)
@given(numbers, numbers, st.integers(1, 30), st.integers(1, 25), st.sampled_from([1, 4, 16]))
def test_without_stabilizers_the_best_of_all_stay_whatever_the_chunks(
    first: list[float], second: list[float], room: int, chunk: int, block_size: int
) -> None:
    """Methods 1.5, 4 and 6: the theorem of appendix N."""
    tape = Tape([first, second], block_size)
    kept = read_all(tape, Locret(stabilizers=0), room, chunk, 60)[-1]
    for scores, tokens in zip((first, second), kept, strict=True):
        assert tokens == sorted(sorted(range(60), key=lambda token: -scores[token])[:room])


@settings(max_examples=30)
@given(numbers, numbers, numbers, st.integers(0, 99))
def test_heads_do_not_ask_each_other(
    first: list[float], second: list[float], third: list[float], percent: int
) -> None:
    """Methods 1.5, 5."""
    policy = Locret(stabilizers=percent)
    one, other = (read_all(Tape([first, rest]), policy, 10, 7, 60) for rest in (second, third))
    assert [heads[0] for heads in one] == [heads[0] for heads in other]


@settings(max_examples=40)
@given(numbers, st.integers(1, 30), st.integers(1, 25), st.integers(0, 99), st.integers(0, 20))
def test_the_latest_are_there_between_chunks_and_order_and_positions_are_those_of_the_text(
    scores: list[float], room: int, chunk: int, percent: int, front: int
) -> None:
    """Methods 1.5, 6, 7 and 9; `Tape.kept` looks at positions, keys and scores."""
    tape, policy = Tape([scores, scores[::-1]], front=front), Locret(stabilizers=percent)
    for number, kept in enumerate(read_all(tape, policy, room, chunk, 60)):
        done = min((number + 1) * chunk, 60)
        for row in kept:
            assert row == sorted(set(row)) and len(row) == min(room, done)
            if done < 60:
                latest = min(policy.stable(room), done)
                assert set(range(done - latest, done)) <= set(row)
    assert (tape.front.own == front).all()
    assert tape.done == 60


def test_stabilizers_never_take_all_the_room() -> None:
    for room in (1, 2, 7, 100, 16384):
        assert Locret(stabilizers=99).stable(room) < room
    assert (Locret().stable(512), Locret().stable(6000)) == (128, 1500)
    with pytest.raises(InvalidMemory, match="stabilizers is 100; expected 0 to 99 percent"):
        LocretQ(stabilizers=100)


def test_of_equal_scores_the_first_stay() -> None:
    tape = Tape([[1.0] * 20, [1.0] * 20])
    assert read_all(tape, Locret(stabilizers=0), 5, 6, 20)[-1] == [[0, 1, 2, 3, 4]] * 2


def test_keys_that_were_moved_again_and_again_are_those_of_their_positions() -> None:
    """Methods 1.5, 9: errors of hundreds of turns do not add up to anything."""
    generator = torch.Generator().manual_seed(5)
    scores = (torch.rand(2, 1500, generator=generator) + torch.arange(1500) / 1500).tolist()
    read_all(Tape(scores, 16), Locret(), 40, 9, 1500)


def test_forgetting_leaves_a_sequence_as_if_nothing_had_been_read() -> None:
    """Methods 6.1.5, 5."""
    tape = Tape([list(range(40)), list(range(40))])
    tape.read(13)
    before = (tape.kept(), tape.sequence.position, tape.sequence.pool.free)
    tape.read(9)
    tape.sequence.forget(9)
    assert (tape.kept(), tape.sequence.position, tape.sequence.pool.free) == before
    assert tape.sequence.freed == tape.sequence.freed_blocks == 0
    assert np.array_equal(tape.sequence.latest_slots(4), tape.sequence.own_slots()[0][..., -4:].numpy())
