"""Retaining heads of a desk: trained, listed and found; and the command that does it, with the real model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refdesk.app import heads as app_heads
from refdesk.app.heads import heads_folder, list_heads, train_heads
from refdesk.app.settings import Settings
from refdesk.craft.card import read_card, write_card
from refdesk.craft.course import Step
from refdesk.craft.errors import HeadsExist, InvalidLessons, InvalidRecipe
from refdesk.craft.lesson import write_lessons
from refdesk.craft.recipe import HeadsRecipe
from refdesk.reader.adapter import load_adapter
from refdesk.reader.errors import HeadsNotFound
from refdesk.reader.heads import load_heads
from refdesk.reader.model import ReaderModel
from tests.app.test_cli import data, refdesk
from tests.craft.conftest import fresh
from tests.craft.worlds import lesson
from tests.eval.conftest import SmallDesk
from tests.reader.conftest import tiny, tokenizer
from tests.reader.test_adapter import packed
from tests.reader.test_adapter import trained as adapter_of

__all__ = ["data", "fresh", "tiny", "tokenizer"]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning"),
]

Fresh = Callable[..., ReaderModel]
RECIPE = HeadsRecipe(inner=8, epochs=2, validate_every=2, validation=2)


class Killed(Exception):
    """What ends a training in these tests."""


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    """What `prepare` writes."""
    folder = tmp_path / "lessons"
    readings = ("together", "apart")
    made = [lesson(readings[n % 2], 1 + n % 3, 3, n) for n in range(10)]  # type: ignore[arg-type]
    write_lessons(folder / "lessons.jsonl", made[:6])
    write_lessons(folder / "validation.jsonl", made[6:])
    write_card(folder / "card.json", {"made": "for a test"})
    return folder


@pytest.fixture
def desk(fresh: Fresh, tmp_path: Path) -> Iterator[SmallDesk]:
    settings = Settings(data=tmp_path / "desk", adapter="none")
    desk = SmallDesk(settings, packed(fresh()))
    yield desk
    desk.close()


def trained(desk: SmallDesk, folder: Path, lessons: Path, **changes: Any) -> dict[str, Any]:
    return train_heads(desk, folder, lessons, None, replace(RECIPE, **changes), lambda step: None)


def test_heads_are_trained_and_written_with_their_card(desk: SmallDesk, lessons: Path, tmp_path: Path) -> None:
    folder = tmp_path / "heads" / "mine"
    card = trained(desk, folder, lessons)
    assert read_card(folder / "card.json") == card
    assert card["name"] == "mine"
    assert (card["base_name"], card["base_fingerprint"]) == ("llama", "llama-test")
    assert (card["adapter_name"], card["adapter_fingerprint"]) == ("", "")
    assert (card["lessons"], card["validation_lessons"], card["lessons_too_long"]) == (6, 2, 0)
    assert card["recipe"]["inner"] == 8 and card["data"] == {"made": "for a test"}
    assert card["result"]["loss"]["all"] < card["result"]["loss_before"]["all"]
    assert 0 <= card["result"]["loss"]["overlap"] <= 1
    assert [len(row) for row in card["result"]["curve"]] == [3] * 7
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]  # no checkpoint is left
    loaded = load_heads(folder, desk.reader[0])
    assert loaded.down.shape == (3, 128, 8)


def test_what_was_interrupted_is_gone_on_with(desk: SmallDesk, lessons: Path, tmp_path: Path) -> None:
    whole = trained(desk, tmp_path / "whole", lessons)

    def killing(step: Step) -> None:
        if step.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train_heads(desk, tmp_path / "parts", lessons, None, RECIPE, killing)
    assert not (tmp_path / "parts").exists()
    told: list[int] = []
    train_heads(desk, tmp_path / "parts", lessons, None, RECIPE, lambda step: told.append(step.step))
    assert told == list(range(5, 13))
    parts = read_card(tmp_path / "parts" / "card.json")
    assert parts["result"]["curve"] == whole["result"]["curve"]
    one, other = (load_heads(tmp_path / name, desk.reader[0]) for name in ("whole", "parts"))
    assert one == other


def test_what_cannot_be_trained_is_refused(desk: SmallDesk, lessons: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    with pytest.raises(HeadsExist, match="full exists already; delete it, or choose another name"):
        trained(desk, tmp_path / "full", lessons)
    with pytest.raises(InvalidLessons, match="nowhere"):
        trained(desk, tmp_path / "mine", tmp_path / "nowhere")
    with pytest.raises(InvalidLessons, match="no lessons of at most 16 tokens"):
        trained(desk, tmp_path / "mine", lessons, longest=16)

    def killing(step: Step) -> None:
        raise Killed

    with pytest.raises(Killed):
        train_heads(desk, tmp_path / "mine", lessons, None, replace(RECIPE, validate_every=1), killing)
    with pytest.raises(InvalidRecipe, match="another recipe"):
        trained(desk, tmp_path / "mine", lessons)


def test_a_name_is_a_folder_of_the_desk_and_a_path_is_a_path() -> None:
    assert heads_folder(Path("/data"), "mine") == Path("/data/heads/mine")
    assert heads_folder(Path("/data"), "./mine") == Path("mine")
    assert heads_folder(Path("/data"), "/else/where") == Path("/else/where")


def test_a_desk_finds_the_heads_of_an_adapter_its_own_before_the_shipped_ones(
    desk: SmallDesk, lessons: Path, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = desk.reader
    adapter = load_adapter(adapter_of(fresh(), tmp_path / "adapter"), model)
    monkeypatch.setattr(app_heads, "_SHIPPED", tmp_path / "shipped")
    data = desk.settings.data
    assert (desk.heads(None), desk.heads(adapter), list_heads(data)) == (None, None, [])
    trained(desk, tmp_path / "shipped" / "plain", lessons, seed=1)
    monkeypatch.setattr(desk, "adapter", lambda asked: adapter)
    trained(desk, data / "heads" / "adapted", lessons, seed=2)
    monkeypatch.undo()
    monkeypatch.setattr(app_heads, "_SHIPPED", tmp_path / "shipped")
    adapted = desk.heads(adapter)
    assert adapted == load_heads(data / "heads" / "adapted", model, adapter)
    assert desk.heads(adapter) is adapted  # loaded once
    shipped = desk.heads(None)
    assert shipped == load_heads(tmp_path / "shipped" / "plain", model)
    trained(desk, data / "heads" / "plain", lessons, seed=3)
    assert desk.heads(None) == load_heads(data / "heads" / "plain", model) != shipped
    assert [(entry.name, entry.shipped) for entry in list_heads(data)] == [
        ("plain", False),
        ("adapted", False),
        ("plain", True),
    ]
    # The newest of several, and none of another model.
    trained(desk, data / "heads" / "again", lessons, seed=4)
    assert desk.heads(None) == load_heads(data / "heads" / "again", model)
    other = SmallDesk(desk.settings, replace(packed(fresh()), fingerprint="another"))
    assert other.heads(None) is None
    other.close()


def test_damaged_weights_are_told_and_heads_whose_card_cannot_be_read_are_nobodys(
    desk: SmallDesk, lessons: Path
) -> None:
    folder = desk.settings.data / "heads" / "mine"
    trained(desk, folder, lessons)
    (folder / "heads.safetensors").write_bytes(b"no weights")
    with pytest.raises(HeadsNotFound, match=r"mine/heads\.safetensors cannot be read"):
        desk.heads(None)
    (folder / "card.json").write_text("no card")
    assert desk.heads(None) is None
    found = next(iter(list_heads(desk.settings.data)))
    assert (found.name, found.card) == ("mine", {})


@pytest.mark.models
def test_heads_are_trained_and_listed_on_the_command_line(data: Path, lessons: Path) -> None:
    asked = ("heads", "train", "halls", "--lessons", str(lessons), "--adapter", "none", "--set")
    made = refdesk(data, *asked, "inner=16")
    assert made.returncode == 0, made.stderr
    assert "halls: loss" in made.stdout and "overlap" in made.stdout
    assert "halls  for SmolLM2-135M-Instruct.Q4_1, no adapter  loss" in refdesk(data, "heads").stdout
    (card,) = [one for one in json.loads(refdesk(data, "heads", "--json").stdout) if not one["shipped"]]
    assert (card["name"], card["recipe"]["inner"]) == ("halls", 16)
    assert torch.isfinite(torch.tensor(card["result"]["loss"]["all"]))
    again = refdesk(data, *asked, "inner=16")
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    for bad in ("inner=many", "inner=0", "colour=1", "inner"):
        refused = refdesk(data, *asked, bad)
        assert (refused.returncode, bad.split("=")[0] in refused.stderr) == (2, True)
    nowhere = refdesk(data, "heads", "train", "x", "--lessons", str(lessons / "no"), "--adapter", "none")
    assert (nowhere.returncode, "card.json cannot be read" in nowhere.stderr) == (1, True)
