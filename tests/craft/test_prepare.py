"""Lessons out of benchmarks, from their files to the folder that is trained on."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refdesk.app.lessons import LESSONS, VALIDATION, prepare, prepare_dataset
from refdesk.app.settings import Settings
from refdesk.craft.card import CARD, describe, read_card
from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.lesson import Lesson, read_lessons
from refdesk.craft.question import normal
from refdesk.craft.recipe import DataRecipe
from refdesk.eval.runs import add_dataset
from refdesk.eval.source_questions import TaskSource, kept_back
from refdesk.reader.model import ReaderModel
from refdesk.retriever.collections import collection_names
from tests.craft.benchmarks import write_all
from tests.craft.worlds import Killed, hall
from tests.eval.conftest import SmallDesk, jsonl

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCES = [TaskSource("squad-v2", limit=60), TaskSource("hotpotqa", limit=8), TaskSource("pubmedqa")]
RECIPE = DataRecipe(distractors=(0, 1, 3), seed=4)


@pytest.fixture
def open_desk(fresh: Callable[..., ReaderModel]) -> Iterator[Callable[[Path], SmallDesk]]:
    """A desk over an empty folder."""
    opened: list[SmallDesk] = []

    def make(folder: Path) -> SmallDesk:
        folder.mkdir()
        settings = Settings(data=folder / "desk", database=f"sqlite:///{folder / 'refdesk.db'}")
        opened.append(SmallDesk(settings, fresh()))
        return opened[-1]

    yield make
    for desk in opened:
        desk.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two questions of nq are asked in squad-v2 too, in other letters: the first of each kind that is drawn."""
    folder = tmp_path / "data"
    write_all(folder, "Who?")
    built, sold = (
        next(e.question for e in SOURCES[0].examples(folder) if e.question.startswith(kind))
        for kind in ("Who built", "Who sold")
    )
    write_all(folder, "Who?", f"  {built.upper()} ", sold.replace("?", " -- ?!"))
    return folder


def prepared(desk: SmallDesk, data: Path, folder: Path, recipe: DataRecipe = RECIPE) -> dict[str, Any]:
    return prepare(desk, SOURCES, recipe, str(data), folder, lambda stage, done, total: None)


def lessons_in(folder: Path) -> tuple[list[Lesson], list[Lesson]]:
    return list(read_lessons(folder / LESSONS)), list(read_lessons(folder / VALIDATION))


def test_what_is_kept_back_is_in_no_lesson(
    open_desk: Callable[[Path], SmallDesk], data: Path, tmp_path: Path
) -> None:
    card = prepared(open_desk(tmp_path / "one"), data, tmp_path / "lessons")
    held = kept_back(SOURCES, data).questions
    lessons, validation = lessons_in(tmp_path / "lessons")
    asked = [one for lesson in (*lessons, *validation) for one in lesson.exercises]
    assert not held & {normal(one.question) for one in asked if one.kind == "answer"}
    for one in asked:
        if one.kind == "ask":
            assert normal(one.target.split("\nAnswer:")[0].removeprefix("Question: ")) not in held
    assert len(held) > 100
    refused = {told["task"]: told["refused"] for told in card["sources"]}
    assert refused == {"squad-v2": 2, "hotpotqa": 0, "pubmedqa": 0}


def test_every_question_is_in_one_lesson_of_one_of_both_files(
    open_desk: Callable[[Path], SmallDesk], data: Path, tmp_path: Path
) -> None:
    card = prepared(open_desk(tmp_path / "one"), data, tmp_path / "lessons")
    lessons, validation = lessons_in(tmp_path / "lessons")
    ids = [one.id for lesson in (*lessons, *validation) for one in lesson.exercises if one.kind == "answer"]
    assert len(ids) == len(set(ids)) == sum(told["questions"] for told in card["sources"])
    assert sum(told["questions"] for told in card["sources"]) > 70
    exercises = [sum(len(lesson.exercises) for lesson in some) for some in (lessons, validation)]
    assert sum(exercises) / 10 - 1 <= exercises[1] <= sum(exercises) / 10 + RECIPE.most_exercises
    assert card["training"] == describe(lessons) and card["validation"] == describe(validation)
    assert {lesson.source for lesson in lessons} == {"squad-v2", "hotpotqa", "pubmedqa"}
    assert {"task": "squad-v2", "options": {}, "part": "train", "limit": 60, "seed": 0}.items() <= card["sources"][
        0
    ].items()
    # As JSON has it.
    assert read_card(tmp_path / "lessons" / CARD)["recipe"]["distractors"] == [0, 1, 3]


def test_the_same_sources_and_recipe_give_the_same_files(
    open_desk: Callable[[Path], SmallDesk], data: Path, tmp_path: Path
) -> None:
    desk = open_desk(tmp_path / "one")
    prepared(desk, data, tmp_path / "first")
    before = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert sorted(before) == sorted((LESSONS, VALIDATION, CARD))
    prepared(desk, data, tmp_path / "first")  # over the same folder, with everything ingested
    prepared(open_desk(tmp_path / "two"), data, tmp_path / "second")
    for folder in ("first", "second"):
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} == before
    prepared(desk, data, tmp_path / "third", DataRecipe(distractors=(0, 1, 3), seed=5))
    assert (tmp_path / "third" / LESSONS).read_bytes() != before[LESSONS]


def test_a_source_of_more_rounds_is_asked_so_much_more_often_and_validated_with_once(
    open_desk: Callable[[Path], SmallDesk], data: Path, tmp_path: Path
) -> None:
    sources = [TaskSource("squad-v2", limit=40), TaskSource("pubmedqa", rounds=3)]
    prepare(open_desk(tmp_path / "one"), sources, RECIPE, str(data), tmp_path / "lessons", lambda *_: None)
    often, held = (
        Counter(one.id for lesson in some for one in lesson.exercises if one.kind == "answer")
        for some in lessons_in(tmp_path / "lessons")
    )
    assert {task: {n for name, n in often.items() if name.startswith(task)} for task in ("squad", "pubmed")} == {
        "squad": {1},
        "pubmed": {3},
    }
    assert set(held.values()) == {1}


def test_a_passage_is_held_out_of_all_sources(
    open_desk: Callable[[Path], SmallDesk], data: Path, tmp_path: Path
) -> None:
    sources = [TaskSource("pubmedqa", part="all"), TaskSource("pubmedqa", {"answer": "long"}, part="all")]
    prepare(open_desk(tmp_path / "one"), sources, RECIPE, str(data), tmp_path / "lessons", lambda *_: None)
    learned, held = (
        [one for lesson in some for one in lesson.exercises if one.kind == "answer"]
        for some in lessons_in(tmp_path / "lessons")
    )
    names = [{one.id.removesuffix("-long") for one in some} for some in (learned, held)]
    assert names[1] and not names[0] & names[1]
    assert {one.form for one in learned if one.id.endswith("-long")} == {"long"}


def test_nothing_to_learn_is_refused_and_nothing_is_written(
    open_desk: Callable[[Path], SmallDesk], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRecipe, match="too few"):
        prepare(
            open_desk(tmp_path / "one"),
            [TaskSource("hotpotqa", limit=1)],
            DataRecipe(distractors=(0,)),
            str(data),
            tmp_path / "lessons",
            lambda stage, done, total: None,
        )
    assert not (tmp_path / "lessons").exists()


def test_documents_of_a_training_that_was_stopped_go_with_their_data_set(
    open_desk: Callable[[Path], SmallDesk], tmp_path: Path
) -> None:
    desk = open_desk(tmp_path / "one")
    documents = [{"title": hall(n).title, "text": hall(n).text, "gold": True} for n in range(10)]
    rows = [
        {"question": f"Who keeps hall {n}?", "answers": [f"Keeper{n}"], "documents": [document]}
        for n, document in enumerate(documents)
    ]
    dataset_id = add_dataset(desk.engine, "halls.jsonl", jsonl(*rows))

    def stop(stage: str, _done: int, _total: int) -> None:
        if stage == "retrieve":
            raise Killed

    with pytest.raises(Killed):
        prepare_dataset(desk, dataset_id, RECIPE, tmp_path / "lessons", stop)
    kept = "eval.craft.dataset.another.1234abcd"
    desk.create_collection(kept)
    assert len(collection_names(desk.engine)) == 2
    desk.delete_dataset(dataset_id)
    assert list(collection_names(desk.engine).values()) == [kept]
