"""What is written into a document's memory is what is found there, in memory and from files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refdesk.memory import document_memory
from refdesk.memory.document_memory import DocumentMemory, MemoryPlan
from refdesk.memory.errors import InvalidMemory

PLAN = MemoryPlan(50, 4, 2, 6, (1, 3), near=8, dtype="float32", reader="somebody")


def told(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, values and scores of all tokens."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 4, 2, 50, 6, generator=generator)
    return keys, values, torch.randn(4, 2, 50, generator=generator)


def filled(memory: DocumentMemory, *ends: int, seed: int = 0) -> DocumentMemory:
    """Written in pieces that end there."""
    keys, values, scores = told(seed)
    for start, end in zip((0, *ends), (*ends, 50), strict=True):
        stretch = (slice(None), slice(None), slice(start, end))
        memory.write(start, keys[stretch], values[stretch], scores[stretch])
    return memory


@pytest.mark.parametrize("ends", [(), (10,), (10, 41, 42, 43), (42,), (49,)])
def test_layers_that_retrieve_hold_all_and_every_layer_what_is_near(ends: tuple[int, ...]) -> None:
    memory = filled(DocumentMemory.create(PLAN), *ends)
    keys, values, _ = told()
    assert torch.equal(memory.far, torch.stack([keys, values])[:, [1, 3], :, :42])
    assert torch.equal(memory.near, torch.stack([keys, values])[..., 42:, :])
    assert memory.places is None
    assert [memory.index(layer) for layer in range(4)] == [None, 0, None, 1]


@pytest.mark.parametrize("ends", [(), (10, 20, 41, 43)])
@pytest.mark.parametrize("rate", [1.5, 4.0])
def test_a_thinned_memory_holds_the_best_of_each_piece_and_knows_their_places(
    ends: tuple[int, ...], rate: float
) -> None:
    memory = filled(DocumentMemory.create(replace(PLAN, rate=rate)), *ends)
    keys, values, scores = told()
    assert memory.places is not None
    assert memory.places.shape[-1] == memory.far.shape[-2] == int(42 / rate)
    for index, layer in enumerate((1, 3)):
        for head in range(2):
            places = memory.places[index, head].long()
            assert places.tolist() == sorted(set(places.tolist()))
            assert torch.equal(memory.far[0, index, head], keys[layer, head, places])
            assert torch.equal(memory.far[1, index, head], values[layer, head, places])
            for start, end in zip((0, *ends), (*ends, 42), strict=True):
                inside = places[(places >= start) & (places < end)]
                others = [one for one in range(start, min(end, 42)) if one not in inside]
                if len(inside) and others:
                    assert scores[layer, head, inside].min() >= scores[layer, head, others].max()
    assert torch.equal(memory.near, torch.stack([keys, values])[..., 42:, :])


@pytest.mark.parametrize(
    "plan", [PLAN, replace(PLAN, rate=3.0), replace(PLAN, near=50), replace(PLAN, retrieving=())]
)
def test_what_is_closed_is_loaded_to_the_last_bit(plan: MemoryPlan, tmp_path: Path) -> None:
    filled(DocumentMemory.create(plan, tmp_path / "memory"), 17).close()
    loaded, held = DocumentMemory.load(tmp_path / "memory"), filled(DocumentMemory.create(plan), 17)
    assert loaded.plan == plan
    for name in ("far", "near", "places"):
        assert (getattr(held, name) is None) == (getattr(loaded, name) is None)
        if getattr(held, name) is not None:
            assert torch.equal(getattr(loaded, name), getattr(held, name))
    size = sum(path.stat().st_size for path in (tmp_path / "memory").glob("*.bin"))
    assert size == plan.bytes


def test_half_of_a_memory_is_none(tmp_path: Path) -> None:
    filled(DocumentMemory.create(PLAN, tmp_path), 17)
    with pytest.raises(InvalidMemory, match="there is no whole memory in"):
        DocumentMemory.load(tmp_path)


def test_a_damaged_memory_is_refused(tmp_path: Path) -> None:
    filled(DocumentMemory.create(PLAN, tmp_path)).close()
    card = json.loads((tmp_path / "memory.json").read_text())
    for damaged, match in (
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps(card | {"format": 2}), "has format 2; expected 1"),
        (json.dumps(card | {"more": 2}), "is damaged"),
        (json.dumps(card | {"tokens": 51}), r"far\.bin is not of"),
    ):
        (tmp_path / "memory.json").write_text(damaged)
        with pytest.raises(InvalidMemory, match=match):
            DocumentMemory.load(tmp_path)
    (tmp_path / "memory.json").write_text(json.dumps(card))
    (tmp_path / "near.bin").write_bytes(b"short")
    with pytest.raises(InvalidMemory, match=r"near\.bin is not of"):
        DocumentMemory.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("tokens", 0, "a memory of 0 tokens"),
        ("near", 0, "near is 0"),
        ("rate", 0.5, "rate is 0.5"),
        ("rate", float("nan"), "rate is nan"),
        ("dtype", "int8", "dtype is 'int8'"),
        ("retrieving", (4,), r"layers are \[4\]"),
        ("retrieving", (2, 1), r"layers are \[2, 1\]"),
        ("retrieving", (1, 1), r"layers are \[1, 1\]"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(name: str, value: object, match: str) -> None:
    with pytest.raises(InvalidMemory, match=match):
        replace(PLAN, **{name: value})


def test_a_memory_that_is_large_is_closed_with_its_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_memory, "INDEXED_FROM", 42)
    filled(DocumentMemory.create(PLAN, tmp_path)).close()
    assert sorted(path.stem for path in tmp_path.glob("*.faiss")) == [
        "keys-0-0",
        "keys-0-1",
        "keys-1-0",
        "keys-1-1",
    ]
    loaded, held = DocumentMemory.load(tmp_path), filled(DocumentMemory.create(PLAN))
    held.close()
    queries = told(seed=1)[0][0, 0].numpy()
    for index, head in ((0, 1), (1, 0)):
        found = [memory.key_index(index, head).propose(queries, 5) for memory in (loaded, held)]
        assert (found[0] == found[1]).all()


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"no index")])
def test_a_memory_whose_index_is_damaged_is_refused_before_anybody_attends_to_it(
    damage: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_memory, "INDEXED_FROM", 42)
    filled(DocumentMemory.create(PLAN, tmp_path)).close()
    damage(tmp_path / "keys-1-0.faiss")
    with pytest.raises(InvalidMemory, match="is damaged"):
        DocumentMemory.load(tmp_path)


def test_a_memory_that_the_disk_has_no_room_for_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidMemory, match=r"takes another \d+ MiB, and the disk has \d+ MiB left"):
        DocumentMemory.create(replace(PLAN, tokens=10**15), tmp_path)


def test_room_for_the_indexes_is_set_aside_before_a_document_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_memory, "INDEXED_FROM", 42)
    memory = filled(DocumentMemory.create(PLAN, tmp_path))
    assert (tmp_path / "indexes.part").stat().st_size == PLAN.index_bytes > 0
    memory.close()
    assert not list(tmp_path.glob("*.part"))


def test_an_index_that_cannot_be_written_is_told_and_leaves_no_whole_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_memory, "INDEXED_FROM", 42)
    memory = filled(DocumentMemory.create(PLAN, tmp_path))
    (tmp_path / "keys-1-0.part").mkdir()
    with pytest.raises(InvalidMemory, match=r"keys-1-0\.faiss of a memory could not be written"):
        memory.close()
    with pytest.raises(InvalidMemory, match="there is no whole memory"):
        DocumentMemory.load(tmp_path)


def test_making_indexes_can_be_stopped_after_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_memory, "INDEXED_FROM", 42)

    def stopped() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        filled(DocumentMemory.create(PLAN, tmp_path)).close(stopped)
    assert len(list(tmp_path.glob("*.faiss"))) == 1
    with pytest.raises(InvalidMemory, match="there is no whole memory"):
        DocumentMemory.load(tmp_path)
    again = DocumentMemory.create(PLAN, tmp_path)  # goes on
    assert not list(tmp_path.glob("*.faiss"))
    assert (tmp_path / "indexes.part").stat().st_size == PLAN.index_bytes
    again.close()
    assert torch.equal(DocumentMemory.load(tmp_path).far, filled(DocumentMemory.create(PLAN)).far)


def test_a_memory_that_the_machine_has_no_room_for_is_refused_before_it_is_held() -> None:
    with pytest.raises(InvalidMemory, match=r"takes \d+ MiB, and the machine's memory has \d+ MiB"):
        DocumentMemory.create(replace(PLAN, tokens=10**12))


def test_what_is_made_anew_keeps_nothing(tmp_path: Path) -> None:
    filled(DocumentMemory.create(PLAN, tmp_path)).close()
    less = DocumentMemory.create(replace(PLAN, near=20), tmp_path, anew=True)
    assert not less.far.any()
    with pytest.raises(InvalidMemory, match="no whole memory"):
        DocumentMemory.load(tmp_path)


def test_a_memory_larger_than_the_machine_s_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(DocumentMemory.create(PLAN, tmp_path)).close()
    tokens = 2**30  # of 192 bytes each, on a disk that keeps no empty pages
    card = json.loads((tmp_path / "memory.json").read_text()) | {"tokens": tokens}
    (tmp_path / "memory.json").write_text(json.dumps(card))
    monkeypatch.setattr(document_memory, "INDEXED_FROM", tokens)
    with (tmp_path / "far.bin").open("r+b") as opened:
        opened.truncate((tokens - PLAN.near) * 192)
    loaded = DocumentMemory.load(tmp_path)
    assert not loaded.far[1, 1, 1, -3:].any()
