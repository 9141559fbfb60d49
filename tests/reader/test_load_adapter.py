"""Which adapters are taken, and how the others are refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from refdesk.reader.adapter import load_adapter
from refdesk.reader.engine import Engine
from refdesk.reader.errors import AdapterMismatch, AdapterNotFound
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from tests.reader.spoilt import assert_damage_is_named
from tests.reader.test_adapter import packed, trained, write_card

pytestmark = pytest.mark.usefixtures("one_thread")

Tiny = Callable[..., ReaderModel]
LAYER = "model.layers.1.self_attn.q_proj"
KEY = f"base_model.model.{LAYER}.lora_"


def test_an_adapter_is_equal_to_another_that_adds_the_same(tiny: Tiny, tmp_path: Path) -> None:
    model = packed(tiny())
    one = load_adapter(trained(tiny(), tmp_path / "one"), model)
    assert (one.name, one.base_name, one.base_fingerprint) == ("one", "llama", "llama-test")
    again = load_adapter(trained(tiny(), tmp_path / "again"), model, "other")
    assert again.name == "other"
    assert (one, hash(one)) == (again, hash(again))
    others = [{"seed": 1}, {"lora_alpha": 9}, {"target_modules": ["q_proj"]}, {"use_rslora": True}]
    for number, other in enumerate(others):
        assert load_adapter(trained(tiny(), tmp_path / str(number), **other), model) != one
    brief = replace(model, dtype=torch.bfloat16)
    assert load_adapter(tmp_path / "one", brief).pairs[LAYER][0].dtype == torch.bfloat16
    assert load_adapter(tmp_path / "one", brief) == one


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of an adapter."""
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.fixture(scope="module")
def sound(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny(), tmp_path_factory.mktemp("sound") / "sound")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """An adapter for the test to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "spoilt"))


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> ReaderModel:
    return packed(tiny())


@pytest.mark.parametrize("name", ["card.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_is_not_there_or_damaged_is_named(name: str, folder: Path, model: ReaderModel) -> None:
    assert_damage_is_named(folder / name, lambda: load_adapter(folder, model), AdapterNotFound)
    with pytest.raises(AdapterNotFound, match="nowhere"):
        load_adapter(folder / "nowhere", model)


@pytest.mark.parametrize("key", ["base_name", "base_fingerprint"])
def test_a_card_without_its_base_is_refused(key: str, folder: Path, model: ReaderModel) -> None:
    write_card(folder, **{"base_name": "llama", "base_fingerprint": "llama-test", key: None})
    with pytest.raises(AdapterNotFound, match=f"{key} is None; expected"):
        load_adapter(folder, model)


def test_an_adapter_of_another_model_is_refused_naming_both(folder: Path, model: ReaderModel) -> None:
    write_card(folder, base_name="Other-1B", base_fingerprint="0123abcd")
    both = r"'spoilt' was trained for Other-1B \(fingerprint 0123abcd\).* llama \(llama-test\)"
    with pytest.raises(AdapterMismatch, match=both):
        load_adapter(folder, model)
    other = replace(model, name="Other-1B", fingerprint="0123abcd")
    with Engine(model) as engine, pytest.raises(AdapterMismatch, match=both):
        engine.submit(GenerationRequest((5,), adapter=load_adapter(folder, other)))


def test_a_model_whose_weights_are_not_packed_takes_no_adapter(sound: Path, tiny: Tiny) -> None:
    with pytest.raises(AdapterMismatch, match="expected packed weights"):
        load_adapter(sound, tiny())
    with Engine(tiny()) as engine, pytest.raises(AdapterMismatch, match="expected packed weights"):
        engine.submit(GenerationRequest((5,), adapter=load_adapter(sound, packed(tiny()))))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("modules_to_save", ["lm_head"]),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("trainable_token_indices", [1, 2]),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("target_parameters", ["weight"]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("use_something_of_next_year", True),
    ],
)
def test_more_than_plain_lora_is_refused_by_name(
    name: str, value: object, folder: Path, model: ReaderModel
) -> None:
    edit_config(folder, {name: value})
    with pytest.raises(AdapterMismatch, match=rf"adapter_config\.json: {name} is .*; expected"):
        load_adapter(folder, model)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"r": None}, "r of .* is None; expected a number"),
        ({"r": 0}, "rank of .* is 0; expected a whole number"),
        ({"r": 4.5}, "rank of .* is 4.5; expected a whole number"),
        ({"lora_alpha": "8"}, "lora_alpha of .* is '8'; expected a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha of .* is nan; expected a number"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern cannot be read"),
        ({"rank_pattern": [3]}, "rank_pattern cannot be read"),
    ],
)
def test_a_scale_that_cannot_be_known_is_refused(
    change: dict[str, Any], match: str, folder: Path, model: ReaderModel
) -> None:
    edit_config(folder, change)
    with pytest.raises(AdapterNotFound, match=match):
        load_adapter(folder, model)


def edit_config(folder: Path, change: Mapping[str, object]) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


@pytest.mark.parametrize(
    ("path", "shapes"),
    [
        ("model.layers.7.self_attn.q_proj", ((4, 64), (64, 4))),
        ("model.embed_tokens", ((4, 400), (64, 4))),
        ("lm_head", ((4, 64), (400, 4))),
        ("model.layers.1.mlp", ((4, 64), (64, 4))),
    ],
)
def test_a_layer_that_is_not_there_or_takes_no_adapter_is_named(
    path: str, shapes: tuple[tuple[int, int], ...], folder: Path, model: ReaderModel
) -> None:
    pair = {
        f"base_model.model.{path}.lora_{half}.weight": torch.ones(s) for half, s in zip("AB", shapes, strict=True)
    }
    rewritten(folder, lambda weights: weights.update(pair))
    with pytest.raises(AdapterMismatch, match=rf"{path} cannot be added to; expected a linear layer"):
        load_adapter(folder, model)


@pytest.mark.parametrize(
    ("half", "shape"), [("A", (4, 63)), ("A", (5, 64)), ("B", (63, 4)), ("B", (64, 5)), ("A", (256,))]
)
def test_a_pair_of_another_shape_is_refused(
    half: str, shape: tuple[int, ...], folder: Path, model: ReaderModel
) -> None:
    rewritten(folder, lambda weights: weights.update({f"{KEY}{half}.weight": torch.ones(shape)}))
    with pytest.raises(
        AdapterMismatch, match=rf"{LAYER} has a pair of shapes .*expected \(\(4, 64\), \(64, 4\)\)"
    ):
        load_adapter(folder, model)


def test_a_rank_that_the_config_does_not_know_is_refused(folder: Path, model: ReaderModel) -> None:
    edit_config(folder, {"r": 8})
    with pytest.raises(AdapterMismatch, match=r"expected \(\(8, 96\), \(64, 8\)\)"):
        load_adapter(folder, model)


@pytest.mark.parametrize("key", ["lora_embedding_A", "lora_A.bias", "lora_magnitude_vector", "weight"])
def test_weights_of_another_kind_are_named(key: str, folder: Path, model: ReaderModel) -> None:
    rewritten(folder, lambda weights: weights.update({f"base_model.model.{LAYER}.{key}": torch.ones(4)}))
    with pytest.raises(AdapterMismatch, match=f"{LAYER}.{key}; expected lora_A.weight and lora_B.weight"):
        load_adapter(folder, model)


def test_half_a_pair_and_no_pair_at_all_are_damage(folder: Path, model: ReaderModel) -> None:
    rewritten(folder, lambda weights: weights.pop(f"{KEY}B.weight"))
    with pytest.raises(AdapterNotFound, match=f"{LAYER} has no lora_A and lora_B"):
        load_adapter(folder, model)
    rewritten(folder, lambda weights: weights.clear())
    with pytest.raises(AdapterNotFound, match="no lora_A and lora_B"):
        load_adapter(folder, model)


@pytest.mark.parametrize("half", ["A", "B"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(
    half: str, value: float, folder: Path, model: ReaderModel
) -> None:
    rewritten(folder, lambda weights: weights[f"{KEY}{half}.weight"].view(-1)[7:8].fill_(value))
    with pytest.raises(AdapterNotFound, match=f"{LAYER} has weights that are not finite in torch.float32"):
        load_adapter(folder, model)


def test_weights_that_are_too_large_for_the_model_s_numbers_are_refused(folder: Path, model: ReaderModel) -> None:
    rewritten(folder, lambda weights: weights[f"{KEY}B.weight"].view(-1)[7:8].fill_(4e4))  # twice that is scaled
    assert load_adapter(folder, model)
    with pytest.raises(AdapterNotFound, match=r"not finite in torch\.float16"):
        load_adapter(folder, replace(model, dtype=torch.float16))
