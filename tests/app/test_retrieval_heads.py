"""Retrieval heads of a desk: chosen by lessons, found and listed; and the command, with the real model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from refdesk.app import retrieval_heads
from refdesk.app.retrieval_heads import choose_retrieval_heads, find_retrieval_heads
from refdesk.app.settings import Settings
from refdesk.craft import retrieval_choice
from refdesk.craft.card import read_card, write_card
from refdesk.craft.errors import InvalidLessons
from refdesk.craft.lesson import Exercise, Lesson, write_lessons
from refdesk.craft.retrieval_choice import Choice
from refdesk.eval.errors import InvalidRun
from refdesk.eval.example import Document
from refdesk.eval.memories import Memories
from refdesk.eval.runs import get_run
from refdesk.reader.errors import HeadsMismatch, HeadsNotFound
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.remember import RememberOptions
from refdesk.reader.retrieval_heads import Heads, in_layers
from refdesk.retriever.ingest import headed
from tests.app.papers import TEXT, ingest, papers, remember
from tests.app.test_cli import data, refdesk
from tests.craft.test_retrieval_choice import lessons_of
from tests.eval.conftest import ROWS, SmallDesk, jsonl
from tests.eval.runs import SETTINGS, begin, finish
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


def test_chosen_heads_are_kept_with_their_card_and_used(
    desk: SmallDesk, lessons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(seed: int) -> dict[str, Any]:
        return choose_retrieval_heads(desk, lessons, None, seed, lambda done, of: None)

    def planted(heads: Heads) -> None:  # for a random model finds nothing
        monkeypatch.setattr(retrieval_choice, "choice", lambda looks, _: Choice(heads, len(looks), 0.9, 0.1, 0.1))

    assert desk.retrieval_heads is None
    planted(((2, 1), (1, 0)))
    card = choose(0)
    assert (card["base_name"], card["base_fingerprint"], card["adapter_name"]) == ("llama", "llama-test", "")
    assert (card["questions"], card["seed"], card["data"]) == (16, 0, {"made": "for a test"})
    assert read_card(desk.settings.data / "retrieval_heads" / "llama-test.json") == json.loads(json.dumps(card))
    assert desk.retrieval_heads == ((2, 1), (1, 0))
    planted(((1, 1),))
    choose(1)
    assert desk.retrieval_heads == ((1, 1),)


def keep(desk: SmallDesk, *heads: tuple[int, int]) -> None:
    """As if they had been chosen."""
    model, folder = desk.reader[0], desk.settings.data / "retrieval_heads"
    folder.mkdir(exist_ok=True)
    card = {"base_name": model.name, "base_fingerprint": model.fingerprint, "heads": heads}
    write_card(folder / f"{model.fingerprint}.json", card)


def test_questions_look_through_documents_by_them_in_the_service_and_in_evaluations(desk: SmallDesk) -> None:
    desk.create_collection("papers", 20, 5)
    ingest(desk, "a.txt", TEXT)
    remember(desk, "a.txt")

    def looking() -> list[Heads | None]:
        evaluated = Memories(desk, RememberOptions(near=2), None, None, lambda: None)
        documents = [evaluated.whole([Document("a", "", TEXT)])]
        documents.append(desk.whole_documents(papers(desk), ["a.txt"], None))
        return [whole.recall.heads for whole in documents]

    assert looking() == [None, None]
    keep(desk, (2, 1), (0, 3), (1, 0))  # the first layer does not retrieve
    assert looking() == [((2, 1), (1, 0))] * 2


def test_what_is_found_is_similar_to_the_question_too_in_the_service_and_in_evaluations(desk: SmallDesk) -> None:
    """The question is a chunk as it was embedded, and attention has no opinion."""
    desk.create_collection("papers", 20, 0)
    ingest(desk, "a.txt", TEXT)
    remember(desk, "a.txt")
    served = desk.whole_documents(papers(desk), ["a.txt"], None)
    evaluated = Memories(desk, RememberOptions(near=2), None, None, lambda: None).whole([Document("a", "", TEXT)])
    for whole in (served, evaluated):
        nothing = [torch.zeros(memory.plan.tokens) for memory in whole.recall.memories]
        every = whole.passages(nothing, 100, None)
        assert every[0].start == 0 and len(every) > 1
        for one in every:
            assert whole.passages(nothing, 1, headed(one.title, one.text))[0].start == one.start
        looked = nothing[0].clone()
        looked[-1] = 1.0  # who attends counts as much: of two it is the first or the second
        found = {one.start for one in whole.passages([looked], 2, headed(every[0].title, every[0].text))}
        assert found == {0, every[-1].start}


def test_a_run_that_looks_by_some_heads_goes_on_with_no_others(desk: SmallDesk) -> None:
    run = begin(desk, jsonl(*ROWS), replace(SETTINGS, pipeline="document", k=1))
    keep(desk, (2, 1))
    finish(desk, run)
    assert get_run(desk.engine, run.id).versions["retrieval_heads"] == "((2, 1),)"
    keep(desk, (1, 0))
    with pytest.raises(InvalidRun, match="retrieval_heads"):
        finish(desk, run)


def test_the_desks_own_come_before_shipped_ones_and_none_are_another_models(
    desk: SmallDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_heads, "_SHIPPED", tmp_path / "shipped")
    model, _ = desk.reader
    (tmp_path / "shipped").mkdir()
    card = {"base_name": model.name, "base_fingerprint": model.fingerprint, "heads": [[2, 0]]}
    write_card(tmp_path / "shipped" / f"{model.fingerprint}.json", card)
    assert desk.retrieval_heads == ((2, 0),)
    keep(desk, (2, 1))
    assert desk.retrieval_heads == ((2, 1),)
    assert find_retrieval_heads(desk.settings.data, replace(model, fingerprint="another")) is None


@pytest.mark.parametrize(
    ("card", "error", "told"),
    [
        ("{", HeadsNotFound, "names no retrieval heads: Input data was truncated"),
        ('{"heads": [[2, 1]], "base_fingerprint": "é"}', HeadsNotFound, "names no retrieval heads"),
        ('{"heads": [[1]], "base_fingerprint": "llama-test"}', HeadsNotFound, "names no retrieval heads"),
        ('{"heads": [[2.5, 1]], "base_fingerprint": "llama-test"}', HeadsNotFound, "Expected `int`"),
        ('{"heads": [[1e999, 1]], "base_fingerprint": "llama-test"}', HeadsNotFound, "names no retrieval heads"),
        ('{"heads": [], "base_fingerprint": "llama-test"}', HeadsNotFound, "expected one at least"),
        ('{"heads": [[2, 1], [2, 1]], "base_fingerprint": "llama-test"}', HeadsNotFound, "none twice"),
        ('{"heads": [[2, 1]]}', HeadsNotFound, "missing required field `base_fingerprint`"),
        (
            '{"heads": [[2, 1]], "base_fingerprint": "other"}',
            HeadsMismatch,
            "is of the model other",
        ),
        (
            '{"heads": [[3, 1]], "base_fingerprint": "llama-test"}',
            HeadsMismatch,
            "head 1 of layer 3; expected heads 0",
        ),
        ('{"heads": [[2, 99]], "base_fingerprint": "llama-test"}', HeadsMismatch, "names head 99 of layer 2"),
    ],
)
def test_a_card_that_is_damaged_is_told(desk: SmallDesk, card: str, error: type[Exception], told: str) -> None:
    folder = desk.settings.data / "retrieval_heads"
    folder.mkdir()
    (folder / "llama-test.json").write_bytes(card.encode("latin-1"))
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
    (data / "retrieval_heads" / "other.json").write_text("{")
    assert "retrieval heads damaged" in refdesk(data, "heads").stdout
    (data / "retrieval_heads" / "other.json").unlink()
    listed = json.loads(refdesk(data, "heads", "--json").stdout)
    kinds = [(one["kind"], one["shipped"]) for one in listed]
    assert kinds == [("retaining", True), ("retrieval", False), ("retrieval", True)]
    assert listed[1]["heads"] == card["heads"]
    line = refdesk(data, "heads").stdout.splitlines()[1]
    assert line.startswith("retrieval heads ") and "for SmolLM2-135M-Instruct.Q4_1" in line
    refused = refdesk(data, *asked, "--seed", "-1")
    assert (refused.returncode, "seed" in refused.stderr) == (2, True)
