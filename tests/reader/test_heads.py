"""Which retaining heads are taken, and how the others are refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from refdesk.craft.card import read_card
from refdesk.craft.course import Learned
from refdesk.craft.heads_folder import save_heads
from refdesk.craft.heads_training import LearningHeads
from refdesk.craft.recipe import HeadsRecipe
from refdesk.reader.adapter import Adapter, load_adapter
from refdesk.reader.errors import HeadsMismatch, HeadsNotFound
from refdesk.reader.heads import load_heads
from refdesk.reader.model import ReaderModel
from tests.reader.spoilt import assert_damage_is_named
from tests.reader.test_adapter import packed, trained

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning"),
]

Tiny = Callable[..., ReaderModel]


def card_of(model: ReaderModel, adapter: Adapter | None = None) -> dict[str, Any]:
    return {
        "base_name": model.name,
        "base_fingerprint": model.fingerprint,
        "adapter_name": adapter.name if adapter else "",
        "adapter_fingerprint": adapter.fingerprint if adapter else "",
    }


def learning(model: ReaderModel, seed: int = 0, inner: int = 8) -> LearningHeads:
    return LearningHeads(model, HeadsRecipe(inner=inner, seed=seed))


def written(
    folder: Path, model: ReaderModel, adapter: Adapter | None = None, seed: int = 0, inner: int = 8
) -> Path:
    """What training writes of heads, here of random numbers."""
    weights = learning(model, seed, inner).weights
    save_heads(folder, Learned(weights, (), 0, 0, 0, 0, 0.0, 0), card_of(model, adapter))
    return folder


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> ReaderModel:
    return packed(tiny())


@pytest.fixture
def folder(model: ReaderModel, tmp_path: Path) -> Path:
    """Heads for the test to spoil."""
    return written(tmp_path / "mine", model)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_heads_say_what_they_said_when_they_were_trained_to_the_rounding_of_their_file(
    kind: str, tiny: Tiny, tmp_path: Path
) -> None:
    model = tiny(kind)
    heads = load_heads(written(tmp_path / "mine", model), model)
    torch.manual_seed(0)
    query, key, value = torch.randn(4, 50, 16), torch.randn(2, 50, 16), torch.randn(2, 50, 16)
    together = torch.cat([query, key, value])  # of a token its query heads, its keys, its values
    shown = torch.stack([together[:, token].flatten() for token in range(50)])
    for layer in range(3):
        expected = learning(model).scores(layer, shown).T
        found = heads.score(layer, query, key, value)
        assert found.shape == (2, 50)
        assert 0 < (found - expected).norm() / expected.norm() < 0.02


def test_heads_are_equal_to_others_of_the_same_weights(model: ReaderModel, tmp_path: Path) -> None:
    one = load_heads(written(tmp_path / "one", model), model)
    again = load_heads(written(tmp_path / "again", model), model)
    assert (one, hash(one)) == (again, hash(again))
    assert load_heads(written(tmp_path / "seed", model, seed=1), model) != one
    assert load_heads(written(tmp_path / "inner", model, inner=9), model) != one
    brief = replace(model, dtype=torch.bfloat16)
    in_brief = load_heads(tmp_path / "one", brief)
    assert in_brief == one
    assert in_brief.down.dtype == in_brief.up.dtype == torch.bfloat16


def test_heads_of_an_adapter_are_loaded_with_it_and_not_without(
    tiny: Tiny, model: ReaderModel, tmp_path: Path
) -> None:
    adapter, other = (load_adapter(trained(tiny(), tmp_path / str(n), seed=n), model) for n in (1, 2))
    with_one = written(tmp_path / "with", model, adapter)
    without = written(tmp_path / "without", model)
    assert load_heads(with_one, model, adapter) == load_heads(without, model)
    own = rf"'with' were trained with adapter '1' \(fingerprint {adapter.fingerprint}\)"
    with pytest.raises(HeadsMismatch, match=rf"{own}; expected some with no adapter"):
        load_heads(with_one, model)
    with pytest.raises(HeadsMismatch, match=rf"{own}; expected some with adapter '2'"):
        load_heads(with_one, model, other)
    with pytest.raises(HeadsMismatch, match=r"'without' were trained with no adapter; expected some with adapter"):
        load_heads(without, model, adapter)


def test_heads_of_another_model_are_refused_naming_both(folder: Path, model: ReaderModel) -> None:
    other = replace(model, name="Other-1B", fingerprint="0123abcd")
    both = r"'mine' were trained for llama \(fingerprint llama-test\); expected some for Other-1B \(0123abcd\)"
    with pytest.raises(HeadsMismatch, match=both):
        load_heads(folder, other)


@pytest.mark.parametrize("name", ["card.json", "heads.safetensors"])
def test_a_file_that_is_not_there_or_damaged_is_named(name: str, folder: Path, model: ReaderModel) -> None:
    assert_damage_is_named(folder / name, lambda: load_heads(folder, model), HeadsNotFound)
    with pytest.raises(HeadsNotFound, match="nowhere"):
        load_heads(folder / "nowhere", model)


@pytest.mark.parametrize("key", ["base_name", "base_fingerprint", "adapter_name", "adapter_fingerprint"])
@pytest.mark.parametrize("value", [None, 7])
def test_a_card_that_does_not_say_whose_they_are_is_refused(
    value: object, key: str, folder: Path, model: ReaderModel
) -> None:
    card = {**read_card(folder / "card.json"), key: value}
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(HeadsNotFound, match=rf"card\.json: {key} is {value!r}; expected a text"):
        load_heads(folder, model)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("down", (2, 128, 8)),
        ("down", (3, 127, 8)),
        ("down", (3, 128, 9)),
        ("down", (3, 128)),
        ("down", ()),
        ("up", (3, 8, 3)),
        ("up", (3, 9, 2)),
        ("up", (4, 8, 2)),
    ],
)
def test_other_shapes_are_refused(name: str, shape: tuple[int, ...], folder: Path, model: ReaderModel) -> None:
    rewritten(folder, lambda weights: weights.update({name: torch.ones(shape)}))
    with pytest.raises(HeadsMismatch, match=r"heads\.safetensors has shapes .*expected .* for llama"):
        load_heads(folder, model)


def test_other_weights_are_named(folder: Path, model: ReaderModel) -> None:
    rewritten(folder, lambda weights: weights.update({"bias": torch.ones(2)}))
    with pytest.raises(HeadsNotFound, match=r"has bias, down, up; expected down and up"):
        load_heads(folder, model)
    rewritten(folder, lambda weights: [weights.pop(name) for name in ("bias", "down")])
    with pytest.raises(HeadsNotFound, match=r"has up; expected"):
        load_heads(folder, model)
    rewritten(folder, lambda weights: weights.clear())
    with pytest.raises(HeadsNotFound, match=r"has nothing; expected"):
        load_heads(folder, model)


@pytest.mark.parametrize("name", ["down", "up"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(
    value: float, name: str, folder: Path, model: ReaderModel
) -> None:
    rewritten(folder, lambda weights: weights[name].view(-1)[7:8].fill_(value))
    with pytest.raises(HeadsNotFound, match=rf"{name} has weights that are not finite in torch\.float32"):
        load_heads(folder, model)


def test_what_fails_leaves_nothing_half_written(model: ReaderModel, tmp_path: Path) -> None:
    folder = written(tmp_path / "heads" / "mine", model)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"card.json", "heads.safetensors"}
    learned = Learned(learning(model, 1).weights, (), 0, 0, 0, 0, 0.0, 0)
    with pytest.raises(TypeError):  # the card is written last
        save_heads(folder, learned, {"version": object()})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(folder)
    with pytest.raises(TypeError):
        save_heads(folder, learned, {"version": object()})
    assert list(folder.parent.iterdir()) == []


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of heads."""
    file = folder / "heads.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
