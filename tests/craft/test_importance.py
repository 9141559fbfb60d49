"""What heads learn, against the model's own attention, run eagerly over the whole mask."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refdesk.craft.encoding import EncodedLesson, encode_lesson
from refdesk.craft.heads_training import LearningHeads
from refdesk.craft.importance import ImportanceReader, highest, row_logits
from refdesk.craft.recipe import HeadsRecipe
from refdesk.memory.attention import Part
from refdesk.memory.errors import UnsupportedAttention
from refdesk.memory.pool import BlockPool
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.memory.sequence import Sequence
from refdesk.reader.adapter import load_adapter
from refdesk.reader.errors import AdapterMismatch
from refdesk.reader.forward import Forward, cache_shape
from refdesk.reader.model import ReaderModel
from tests.craft.worlds import lesson
from tests.reader.in_line import plain_attention
from tests.reader.test_adapter import merged, packed, trained

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning"),
]

Fresh = Callable[..., ReaderModel]
KINDS = ["llama", "qwen2", "qwen3"]
HEADS, KV_HEADS, DIM = 4, 2, 16


def test_the_highest_of_all_rows_and_heads_of_a_group_counts() -> None:
    # Numeric case C: three query heads of one KV head, two answer rows, one token.
    key = torch.tensor([[[1.0, 0.0]]])
    logits = torch.tensor([[0.2, -1.0], [3.1, 0.4], [2.9, 3.0]])
    query = torch.stack([logits, torch.randn(3, 2)], dim=-1)
    assert highest(row_logits(query, key, 1.0)).tolist() == [[pytest.approx(3.1)]]
    assert highest(row_logits(query, key, 0.25)).tolist() == [[pytest.approx(3.1 / 4)]]


@dataclass
class Witness:
    """What the layers of a model compute of their own: projections behind any norm and before any position, by
    hooks, and turned queries and keys, as they stand for passages and for branches."""

    projected: list[dict[str, torch.Tensor]] = field(default_factory=list)
    turned: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def watch(self, model: Any, encoded: EncodedLesson) -> None:
        handles = []
        for layer in model.model.layers:
            seen: dict[str, torch.Tensor] = {}
            self.projected.append(seen)
            for name in ("q", "k", "v"):
                attention = layer.self_attn
                module = getattr(attention, f"{name}_norm", None) or getattr(attention, f"{name}_proj")

                def note(module: Any, given: Any, out: torch.Tensor, seen: Any = seen, name: str = name) -> None:
                    seen[name] = out[0].reshape(len(encoded.token_ids), -1)

                handles.append(module.register_forward_hook(note))
        mask, shifts = torch.from_numpy(encoded.mask()), torch.from_numpy(encoded.shifts)
        ids, positions = (torch.from_numpy(a)[None] for a in (encoded.token_ids, encoded.positions))
        branches = torch.from_numpy(encoded.groups < 0)
        with plain_attention(model, mask, shifts, branches) as self.turned, torch.no_grad():
            model(input_ids=ids, position_ids=positions, use_cache=False)
        for handle in handles:
            handle.remove()


def brute_force(
    query: torch.Tensor, key: torch.Tensor, encoded: EncodedLesson
) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest logits and shares, both `[tokens, kv_heads]`, one row of one head at a time."""
    mask = torch.from_numpy(encoded.mask())
    highest = torch.full((len(encoded.groups[encoded.document]), KV_HEADS), -torch.inf)
    most = torch.zeros_like(highest)
    for head in range(HEADS):
        for row in encoded.rows.tolist():
            logits = key[head // 2].double() @ query[head, row].double() / DIM**0.5
            shares = logits.masked_fill(~mask[row], -torch.inf).softmax(dim=0)
            for labels, found in ((highest, logits), (most, shares)):
                labels[:, head // 2] = torch.maximum(labels[:, head // 2], found[encoded.document].float())
    return highest, most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reading", "exercises", "question_first"),
    [("together", 3, False), ("apart", 3, False), ("together", 1, True), ("apart", 1, True)],
)
def test_labels_and_what_heads_are_shown_are_those_of_the_model_s_own_attention(
    reading: str, exercises: int, question_first: bool, kind: str, fresh: Fresh
) -> None:
    model = fresh(kind)
    one = lesson(reading, 2, exercises)  # type: ignore[arg-type]
    encoded = encode_lesson(replace(one, question_first=question_first), model)
    witness = Witness()
    witness.watch(model.model, encoded)
    reader = ImportanceReader(model)
    found = reader.read(encoded)
    reader.close()
    assert len(found.inputs) == len(found.logits) == len(found.shares) == 3
    for layer, (query, _, looked_at) in enumerate(witness.turned):
        logits, shares = brute_force(query, looked_at, encoded)
        torch.testing.assert_close(found.logits[layer], logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.shares[layer].exp(), shares, atol=1e-5, rtol=1e-4)
        shown = torch.cat([witness.projected[layer][name] for name in "qkv"], dim=1)[encoded.document]
        assert shown.shape[1] == (HEADS + 2 * KV_HEADS) * DIM
        torch.testing.assert_close(found.inputs[layer], shown, atol=1e-4, rtol=1e-4)


def test_the_document_is_the_passages_and_nothing_else(fresh: Fresh) -> None:
    model = fresh()
    for question_first in (False, True):
        for reading in ("together", "apart"):
            one = replace(lesson(reading, 3, 1), question_first=question_first)  # type: ignore[arg-type]
            encoded = encode_lesson(one, model)
            text = model.tokenizer.decode(encoded.token_ids[encoded.document])
            assert text.startswith("Title: Hall 0\n") and text.endswith("It stands there.\n\n")
            assert text.count("Title:") == 3


def test_neighbours_are_those_of_the_text(fresh: Fresh) -> None:
    model = fresh()
    reader = ImportanceReader(model)
    assert reader.read(encode_lesson(lesson("together", 3, 2), model)).adjoin.all()
    encoded = encode_lesson(lesson("apart", 3, 2), model)
    adjoin = reader.read(encoded).adjoin
    groups = torch.from_numpy(encoded.groups[encoded.document])
    assert torch.equal(adjoin, groups[1:] == groups[:-1])
    assert int((~adjoin).sum()) == 2
    reader.close()


def test_what_is_wanted_by_any_exercise_is_wanted(fresh: Fresh) -> None:
    model = fresh()
    whole = lesson("together", 2, 3)
    reader = ImportanceReader(model)

    def labels(*numbers: int) -> list[torch.Tensor]:
        some = replace(whole, exercises=tuple(whole.exercises[number] for number in numbers))
        found = reader.read(encode_lesson(some, model))
        return [*found.logits, *found.shares]

    for both, first, second in zip(labels(0, 1), labels(0), labels(1), strict=True):
        torch.testing.assert_close(both, torch.maximum(first, second), atol=1e-4, rtol=1e-4)
    reader.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_part_of_what_reads(kind: str, fresh: Fresh, tmp_path: Path) -> None:
    plain = fresh(kind)
    folder = trained(plain, tmp_path / "mine")
    encoded = encode_lesson(lesson("together", 2, 2), plain)
    found = []
    for model, adapter in (
        (packed(plain), load_adapter(folder, packed(plain))),
        (merged(plain, folder), None),
        (plain, None),
    ):
        reader = ImportanceReader(model, adapter)
        found.append(reader.read(encoded))
        reader.close()
    with_adapter, oracle, without = found
    for layer in range(3):
        for mine, exact in (
            (with_adapter.logits[layer], oracle.logits[layer]),
            (with_adapter.inputs[layer], oracle.inputs[layer]),
        ):
            torch.testing.assert_close(mine, exact, atol=1e-3 * float(exact.abs().max()), rtol=1e-3)
    assert not torch.allclose(with_adapter.logits[2], without.logits[2], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reading", ["together", "apart"])
def test_heads_are_shown_in_training_what_the_engine_shows_them(reading: str, kind: str, fresh: Fresh) -> None:
    model = fresh(kind)
    encoded = encode_lesson(lesson(reading, 1, 2), model)  # type: ignore[arg-type]
    reader = ImportanceReader(model)
    found = reader.read(encoded)
    reader.close()
    learning = LearningHeads(model, HeadsRecipe(inner=8))
    heads = RetainingHeads("", learning.weights["down"], learning.weights["up"])
    pool = BlockPool(cache_shape(model), 256)
    forward, sequence = Forward(model, pool), Sequence(pool)
    ids = encoded.token_ids[: encoded.document.stop].tolist()
    for chunk in (ids[:20], ids[20 : encoded.frame], ids[encoded.frame :]):
        forward((Part(sequence, len(chunk), heads=heads),), chunk, [])
    forward.close()
    for layer in range(3):
        expected = learning.scores(layer, found.inputs[layer])
        for head in range(KV_HEADS):
            slots = sequence.held_slots(layer, head)[encoded.document]
            told = pool.scores.view(-1)[torch.from_numpy(slots)]
            torch.testing.assert_close(told, expected[:, head], atol=2e-3, rtol=1e-3)


def test_reading_leaves_the_model_as_it_was_and_asks_for_no_gradient(fresh: Fresh) -> None:
    model = fresh()
    model.model.requires_grad_(True)
    before = model.model.config._attn_implementation
    reader = ImportanceReader(model)
    found = reader.read(encode_lesson(lesson("apart", 2, 2), model))
    assert not any(tensor.requires_grad for tensor in (*found.inputs, *found.logits, *found.shares))
    reader.close()
    assert model.model.config._attn_implementation == before


def test_who_cannot_be_read_is_refused(fresh: Fresh, tmp_path: Path) -> None:
    plain = fresh()
    adapter = load_adapter(trained(plain, tmp_path / "mine"), packed(plain))
    with pytest.raises(AdapterMismatch, match="'mine' was trained for llama"):
        ImportanceReader(replace(packed(plain), fingerprint="another"), adapter)
    unturned = replace(plain, model=torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedAttention, match="llama"):
        ImportanceReader(unturned)


def test_numbers_of_the_lesson_s_rows_are_those_in_front_of_the_answer(fresh: Fresh) -> None:
    model = fresh()
    encoded = encode_lesson(lesson("together", 2, 1), model)
    said = [*encoded.token_ids[encoded.rows[1:]].tolist(), model.tokenizer.eos_token_id]
    assert said == encoded.targets.tolist()
    assert encoded.token_ids[encoded.rows[0]] not in encoded.targets[:-1]
    assert np.array_equal(encoded.rows, np.arange(encoded.rows[0], len(encoded.token_ids)))
