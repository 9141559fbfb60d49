"""Retrieval heads of a desk: chosen by lessons, found and listed; and the command, with the real model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from refdesk.app import retrieval_heads
from refdesk.app.retrieval_heads import choose_retrieval_heads, find_retrieval_heads
from refdesk.app.settings import Settings
from refdesk.craft.card import read_card, write_card
from refdesk.craft.errors import InvalidLessons
from refdesk.craft.lesson import Exercise, Lesson, write_lessons
from refdesk.reader.errors import HeadsMismatch, HeadsNotFound
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.retrieval_heads import in_layers
from tests.app.test_cli import data, refdesk
from tests.craft.test_retrieval_choice import lessons_of
from tests.eval.conftest import SmallDesk
from tests.reader.conftest import tiny, tokenizer

__all__ = ["data", "tiny", "tokenizer"]


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    """What `prepare` writes."""
    folder = tmp_path / "lessons"
    write_lessons(folder / "lessons.jsonl", lessons_of(25))
    write_card(folder / "card.json", {"made": "for a test"})
    return folder


@pytest.fixture
def desk(tiny: Callable[..., ReaderModel], tmp_path: Path) -> Iterator[SmallDesk]:
    desk = SmallDesk(Settings(data=tmp_path / "desk", adapter="none"), tiny())
    yield desk
    desk.close()


def test_chosen_heads_are_kept_with_their_card_and_used(desk: SmallDesk, lessons: Path) -> None:
    assert desk.retrieval_heads is None
    card = choose_retrieval_heads(desk, lessons, None, 0, lambda done, of: None)
    assert (card["base_name"], card["base_fingerprint"], card["adapter_name"]) == ("llama", "llama-test", "")
    assert (card["questions"], card["seed"], card["data"]) == (16, 0, {"made": "for a test"})
    assert read_card(desk.settings.data / "retrieval_heads" / "llama-test.json") == json.loads(json.dumps(card))
    assert desk.retrieval_heads == card["heads"]
    again = choose_retrieval_heads(desk, lessons, None, 1, lambda done, of: None)
    assert desk.retrieval_heads == again["heads"]


def test_the_desks_own_come_before_shipped_ones_and_none_are_another_models(
    desk: SmallDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_heads, "_SHIPPED", tmp_path / "shipped")
    model, _ = desk.reader
    for folder, head in ((tmp_path / "shipped", 0), (desk.settings.data / "retrieval_heads", 1)):
        folder.mkdir()
        card = {"base_name": model.name, "base_fingerprint": model.fingerprint, "heads": [[2, head]]}
        write_card(folder / f"{model.fingerprint}.json", card)
        assert desk.retrieval_heads == ((2, head),)
    assert find_retrieval_heads(desk.settings.data, replace(model, fingerprint="another")) is None


@pytest.mark.parametrize(
    ("card", "error", "told"),
    [
        ("{", HeadsNotFound, "names no retrieval heads: JSONDecodeError"),
        ('{"heads": [[1]], "base_fingerprint": "llama-test"}', HeadsNotFound, "names no retrieval heads"),
        ('{"heads": [], "base_fingerprint": "llama-test"}', HeadsNotFound, "names no retrieval heads"),
        ('{"heads": [[2, 1]]}', HeadsNotFound, "KeyError 'base_fingerprint'"),
        (
            '{"heads": [[2, 1]], "base_fingerprint": "other"}',
            HeadsMismatch,
            "is of the model other",
        ),
        ('{"heads": [[3, 1]], "base_fingerprint": "llama-test"}', HeadsMismatch, "names head 1 of layer 3"),
        ('{"heads": [[2, 99]], "base_fingerprint": "llama-test"}', HeadsMismatch, "names head 99 of layer 2"),
    ],
)
def test_a_card_that_is_damaged_is_told(desk: SmallDesk, card: str, error: type[Exception], told: str) -> None:
    folder = desk.settings.data / "retrieval_heads"
    folder.mkdir()
    (folder / "llama-test.json").write_text(card)
    with pytest.raises(error, match=rf"llama-test\.json .*{told}"):
        _ = desk.retrieval_heads


def test_those_in_layers_that_retrieve_are_used_or_all_heads_where_there_are_none() -> None:
    heads = ((18, 6), (17, 3), (18, 7))
    assert in_layers(heads, range(18, 30)) == ((18, 6), (18, 7))
    assert in_layers(heads, range(10)) is None
    assert in_layers(None, range(30)) is None


def test_lessons_that_cannot_be_chosen_by_are_refused(desk: SmallDesk, lessons: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidLessons, match="nowhere"):
        choose_retrieval_heads(desk, tmp_path / "nowhere", None, 0, lambda done, of: None)
    write_lessons(lessons / "lessons.jsonl", lessons_of(3))
    with pytest.raises(InvalidLessons, match="expected 2 at least"):
        choose_retrieval_heads(desk, lessons, None, 0, lambda done, of: None)
    assert desk.retrieval_heads is None


TOWNS = "Arden Brill Corby Denton Elmley Fosse Garth Helmsley Ilkley Jarrow Kelso Lindow Malton Norwood Otley"
TOWNS += " Pendle Quorn Ripley Selby Thirsk Ulverton Wensley Yarm Alston Belper Crich Dunster Eyam Frome Goole"
FACTS = (
    (
        "Ships had been lost off {0} for years when the stonemason {1} built a lighthouse there.",
        "lit the coast of {0}",
    ),
    (
        "The theatre of {0} burnt down twice. A widow, {1}, paid for the third.",
        "gave {0} its theatre",
    ),
    (
        "The bread of {0} is dark and keeps for a month; {1} baked it first, in a hard winter.",
        "first made the bread of {0}",
    ),
)
GIVEN, FAMILY = (
    ("Mara", "Tobias", "Elin", "Rufus", "Agnes", "Silas"),
    ("Quill", "Marsh", "Thorne", "Webb", "Harrow"),
)


def town_lessons() -> list[Lesson]:
    """Passages as different as those of a collection, a question about each."""
    made = []
    for number, (town, (text, asked)) in enumerate(product(TOWNS.split(), FACTS)):
        name = f"{GIVEN[number % 6]} {FAMILY[number % 5]}"
        told = text.format(town, name)
        exercise = Exercise("who", f"Who {asked.format(town)}?", name, oracles=(0,))
        made.append(
            Lesson((Passage(f"{town}, {number}", town, told, 0, len(told), 0.0),), "together", (exercise,))
        )
    return made


@pytest.mark.models
def test_heads_are_chosen_and_listed_on_the_command_line(data: Path, lessons: Path) -> None:
    write_lessons(lessons / "lessons.jsonl", town_lessons())
    asked = ("heads", "choose", "--lessons", str(lessons), "--adapter", "none")
    made = refdesk(data, *asked, "--json")
    assert made.returncode == 0, made.stderr
    card = json.loads(made.stdout)
    assert card["found"] > max(card["by_lot"], card["found_by_all"])
    listed = json.loads(refdesk(data, "heads", "--json").stdout)
    kinds = [(one["kind"], one["shipped"]) for one in listed]
    assert kinds == [("retaining", True), ("retrieval", False), ("retrieval", True)]
    assert listed[1]["heads"] == card["heads"]
    line = refdesk(data, "heads").stdout.splitlines()[1]
    assert line.startswith("retrieval heads ") and "for SmolLM2-135M-Instruct.Q4_1" in line
    refused = refdesk(data, *asked, "--seed", "-1")
    assert (refused.returncode, "seed" in refused.stderr) == (2, True)
