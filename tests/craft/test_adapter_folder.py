"""A trained adapter as a folder: peft reads it, and it is there whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict

from refdesk.craft.adapter_folder import save_adapter
from refdesk.craft.card import CARD, read_card
from refdesk.craft.course import result
from refdesk.craft.encoding import encode_lesson
from refdesk.craft.recipe import TrainingRecipe
from refdesk.craft.training import Outcome, train
from refdesk.reader.model import ReaderModel
from tests.craft.worlds import lesson

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning"),
]

Fresh = Callable[..., ReaderModel]
IDS = torch.arange(3, 60)[None]


def outcome_of(fresh: Fresh, folder: Path, kind: str = "llama", rank: int = 4) -> Outcome:
    model = fresh(kind)
    lessons = [encode_lesson(lesson("together", 2, 2), model), encode_lesson(lesson("apart", 3, 3), model)]
    recipe = TrainingRecipe(rank=rank, alpha=12.0, learning_rate=2e-2, batch=5, epochs=4, validate_every=2)
    return train(model, lessons, lessons, recipe, folder / "checkpoint.pt")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_peft_loads_what_was_trained(kind: str, fresh: Fresh, tmp_path: Path) -> None:
    outcome = outcome_of(fresh, tmp_path, kind)
    save_adapter(tmp_path / "mine", outcome, {"name": "mine"})
    with torch.no_grad():
        base = fresh(kind).model(IDS).logits
        rounded = {name: tensor.bfloat16().float() for name, tensor in outcome.state.items()}
        exact, coarse = (
            get_peft_model(fresh(kind).model, outcome.config, autocast_adapter_dtype=False) for _ in range(2)
        )
        set_peft_model_state_dict(exact, outcome.state)
        set_peft_model_state_dict(coarse, rounded)
        loaded = PeftModel.from_pretrained(fresh(kind).model, str(tmp_path / "mine"))
        found = loaded.eval()(IDS).logits
        torch.testing.assert_close(found, coarse.eval()(IDS).logits, atol=1e-5, rtol=1e-5)
        of_rounding = (found - exact.eval()(IDS).logits).norm() / (found - base).norm()
        assert 0 < of_rounding < 0.02
        # Merged into the weights it says the same.
        merged = loaded.merge_and_unload()(IDS).logits
        torch.testing.assert_close(merged, found, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(merged, base, atol=1e-2)


def test_no_path_of_the_machine_that_trained_it_is_kept(fresh: Fresh, tmp_path: Path) -> None:
    outcome = outcome_of(fresh, tmp_path)
    outcome.config.base_model_name_or_path = str(tmp_path / "models" / "mine")
    save_adapter(tmp_path / "mine", outcome, {"name": "mine"})
    for file in (tmp_path / "mine").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
    assert outcome.config.base_model_name_or_path is not None


def test_an_older_adapter_is_replaced_with_all_that_was_in_it(fresh: Fresh, tmp_path: Path) -> None:
    folder = tmp_path / "adapters" / "mine"
    outcome = outcome_of(fresh, tmp_path, rank=2)
    save_adapter(folder, outcome, {"version": 1})
    (folder / "left.txt").write_text("of the older one")
    (folder.parent / ".mine.part").mkdir()
    (folder.parent / ".mine.part" / "half.txt").write_text("of one that was killed")
    save_adapter(folder, outcome_of(fresh, tmp_path / "other"), {"version": 2})
    assert read_card(folder / CARD) == {"version": 2}
    names = ["adapter_config.json", "adapter_model.safetensors", "card.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert PeftModel.from_pretrained(fresh().model, str(folder)).peft_config["default"].r == 4


def test_what_fails_leaves_nothing_half_written(fresh: Fresh, tmp_path: Path) -> None:
    folder = tmp_path / "adapters" / "mine"
    outcome = outcome_of(fresh, tmp_path)
    with pytest.raises(TypeError):  # the card is written last
        save_adapter(folder, outcome, {"version": object()})
    assert list(folder.parent.iterdir()) == []
    save_adapter(folder, outcome, {"version": 1})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TypeError):
        save_adapter(folder, outcome, {"version": object()})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_the_card_tells_what_the_training_came_to(fresh: Fresh, tmp_path: Path) -> None:
    outcome = outcome_of(fresh, tmp_path)
    told = result(outcome)
    losses = dict(outcome.curve)
    assert told["loss_before"] == losses[0]
    assert told["loss"] == losses[told["best_step"]]
    assert told["loss"]["all"] == min(loss["all"] for loss in losses.values()) < told["loss_before"]["all"]
    assert (told["steps"], told["exercises"]) == (4, 20)
    assert told["curve"] == [[step, pytest.approx(loss["all"], abs=1e-4)] for step, loss in outcome.curve]
    save_adapter(tmp_path / "mine", outcome, told)
    assert read_card(tmp_path / "mine" / CARD) == told
