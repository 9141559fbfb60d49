"""An index proposes keys that a query may be looking for, from memory and from a file."""

from pathlib import Path

import numpy as np
import pytest

from refdesk.memory import key_index
from refdesk.memory.key_index import KeyIndex, Vectors


def keys(count: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


def test_most_of_what_a_query_is_nearest_to_is_proposed() -> None:
    held, queries = keys(5000), keys(40, 1)
    best = np.argsort(-queries @ held.T, axis=1)[:, :8]
    proposed = KeyIndex.build(held).propose(queries, 64)
    found = np.mean([len(set(right) & set(mine)) / 8 for right, mine in zip(best, proposed, strict=True)])
    assert found > 0.75  # by lot it would be one in eighty


def test_all_lists_propose_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_PROBED", 1)
    held, queries = keys(500), keys(40, 1)
    proposed = KeyIndex.build(held).propose(queries, 1)[:, 0]
    scores = queries @ held.T
    assert (scores[np.arange(40), proposed] > scores.max(1) - 0.1).all()  # but for the rounding to eight bits


def test_a_file_proposes_the_same(tmp_path: Path) -> None:
    made = KeyIndex.build(keys(3000))
    made.write(tmp_path / "keys.faiss")
    read = KeyIndex.read(tmp_path / "keys.faiss")
    assert (read.propose(keys(9, 1), 5) == made.propose(keys(9, 1), 5)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["keys.faiss"]


def test_fewer_keys_than_asked_for_leave_places_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_PROBED", 1)
    proposed = KeyIndex.build(keys(3)).propose(keys(2, 1), 5)
    assert [sorted(row) for row in proposed.tolist()] == [[-1, -1, 0, 1, 2]] * 2
