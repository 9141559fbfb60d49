"""Questions of benchmarks: passages as the service chunks them, distractors that do not answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refdesk.app.settings import Settings
from refdesk.craft.question import SourceQuestion, holds, normal
from refdesk.eval.dataset import read_dataset
from refdesk.eval.errors import InvalidDataset, MissingData
from refdesk.eval.example import Example
from refdesk.eval.part import is_in
from refdesk.eval.source_questions import KeptBack, TaskSource, dataset_examples, kept_back, source_questions
from refdesk.eval.tasks import find_task
from refdesk.reader.model import ReaderModel
from tests.craft.benchmarks import write_all, write_hotpotqa, write_pubmedqa, write_squad_v2
from tests.eval.conftest import SmallDesk, jsonl

pytestmark = pytest.mark.usefixtures("one_thread")


class Stop(Exception):
    """What stops the work in these tests."""


@pytest.fixture
def desk(tmp_path: Path, tiny: Callable[..., ReaderModel]) -> Iterator[SmallDesk]:
    settings = Settings(data=tmp_path / "desk", database=f"sqlite:///{tmp_path / 'refdesk.db'}")
    desk = SmallDesk(settings, tiny("llama", 2048))
    yield desk
    desk.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_all(tmp_path / "data", "Who is it?", "who built THE 3th tower of town0")
    return tmp_path / "data"


def found(desk: SmallDesk, source: TaskSource, data: Path) -> list[SourceQuestion]:
    return source_questions(desk, source.task, source.examples(data), lambda stage, done, total: None)


def by_id(source: TaskSource, data: Path) -> dict[str, Example]:
    return {f"{source.task}:{example.id}": example for example in source.examples(data)}


def gold_of(example: Example) -> list[tuple[str, int, int]]:
    """Where the gold stands: by title, for a document of one paragraph is named by its content."""
    return [(span.document_id, span.start, span.end) for span in example.gold]


def check(asked: SourceQuestion, example: Example, *, tells: bool = True) -> None:
    """What is promised of every question."""
    assert asked.question == example.question
    gold = gold_of(example)
    assert asked.answerable == example.answerable
    for passage in asked.oracles:
        assert any(
            passage.document_id == d and passage.start < end and start < passage.end for d, start, end in gold
        )
    if tells and asked.answers:
        assert any(holds(passage.text, asked.answers) for passage in asked.oracles)
    for passage in asked.distractors:
        assert not holds(passage.text, asked.answers)
        assert passage not in asked.oracles
        if asked.answerable:
            assert not any(
                passage.document_id == d and passage.start < end and start < passage.end for d, start, end in gold
            )
    places = [(p.document_id, p.start, p.end) for p in (*asked.oracles, *asked.distractors)]
    assert len(set(places)) == len(places)


def test_oracles_hold_an_answer_and_distractors_hold_none(desk: SmallDesk, data: Path) -> None:
    source = TaskSource("squad-v2", limit=60)
    asked = found(desk, source, data)
    examples = by_id(source, data)
    assert [one.id for one in asked] == list(examples)  # in this order, none left out
    kinds = {one.id.split(":")[1].split("-")[0] for one in asked}
    assert kinds == {"built", "lives", "sold"}
    for one in asked:
        check(one, examples[one.id])
        if "built" in one.id:
            assert len(one.oracles) == 1 and len(one.distractors) >= 20
            # Hard ones: most of the first are about the same town or a tower of the same number.
            words = set(one.question.rstrip("?").split()[3:])
            assert sum(bool(words & set(p.text.split(".")[0].split())) for p in one.distractors[:5]) >= 4
        if "lives" in one.id:  # the answer stands in every other town's passages too
            (oracle,) = one.oracles
            parity = int(oracle.title.removeprefix("Town")) % 2
            assert {int(p.title.removeprefix("Town")) % 2 for p in one.distractors} <= {1 - parity}


def test_what_an_unanswerable_question_was_written_about_is_its_first_distractor(
    desk: SmallDesk, data: Path
) -> None:
    source = TaskSource("squad-v2", part="all", limit=80, seed=1)
    examples = by_id(source, data)
    unanswerable = [one for one in found(desk, source, data) if "sold" in one.id]
    assert len(unanswerable) > 10
    for one in unanswerable:
        (document,) = examples[one.id].documents
        assert (one.answers, one.oracles, one.answerable) == ((), (), False)
        assert one.distractors[0].document_id == document.id
        assert one.distractors[0].text in document.text
        assert len({passage.document_id for passage in one.distractors}) > 10


def test_a_question_about_a_long_text_is_searched_for_in_that_alone(desk: SmallDesk, data: Path) -> None:
    source = TaskSource("squad-v2", {"context": "article"}, limit=40)
    examples = by_id(source, data)
    asked = found(desk, source, data)
    assert {one.id for one in asked} <= set(examples)
    for one in asked:
        (document,) = examples[one.id].documents
        assert len(document.text) > 5000
        check(one, examples[one.id])
        assert {passage.document_id for passage in (*one.oracles, *one.distractors)} == {document.id}
        for passage in (*one.oracles, *one.distractors):
            assert document.text[passage.start : passage.end] == passage.text != document.text


def test_a_question_over_two_documents_has_an_oracle_of_each(desk: SmallDesk, data: Path) -> None:
    source = TaskSource("hotpotqa", part="all")
    asked = found(desk, source, data)
    assert len(asked) == 24
    for one in asked:
        number = one.id.split("-")[1]
        assert [passage.title for passage in one.oracles] == [f"Builder{number}", f"Tower {number}"]
        check(one, by_id(source, data)[one.id])
        assert len(one.distractors) >= 10


def test_a_yes_or_no_chooses_no_passage_and_forbids_none(desk: SmallDesk, data: Path) -> None:
    write_hotpotqa(data, dict.fromkeys(range(24), "no"))
    for one in found(desk, TaskSource("hotpotqa", part="all"), data):
        assert len(one.oracles) == 2 and len(one.distractors) >= 10
    source = TaskSource("pubmedqa", part="all")
    asked = found(desk, source, data)
    assert len(asked) == 30
    for one in asked:
        (document,) = by_id(source, data)[one.id].documents
        # The whole abstract, for any of it may tell.
        assert {passage.document_id for passage in one.oracles} == {document.id}
        assert min(passage.start for passage in one.oracles) == 0
        assert max(passage.end for passage in one.oracles) == len(document.text.rstrip())
        assert 1 < len(one.oracles) <= 3
        check(one, by_id(source, data)[one.id], tells=False)
        assert len(one.distractors) >= 20


def test_very_long_answers_and_answers_that_stand_in_no_single_passage_are_left_out(
    desk: SmallDesk, data: Path
) -> None:
    write_hotpotqa(data, {0: "word " * 161, 1: "word " * 159, 2: "said nowhere"})
    ids = {one.id for one in found(desk, TaskSource("hotpotqa", part="all"), data)}
    # In no wording of two short documents: these are taught as they are.
    assert ids == {f"hotpotqa:hop-{number}" for number in range(1, 24)}
    write_pubmedqa(data, sentences=60)  # a "yes" by itself is in none of more than three passages
    assert found(desk, TaskSource("pubmedqa", part="all", limit=10), data) == []


def test_of_a_data_set_the_training_part_is_learned_from(desk: SmallDesk) -> None:
    rows = [
        {
            "id": f"tower-{number}",
            "question": f"When was tower {number} finished?",
            "answers": [f"{1800 + number}"],
            "documents": [
                {"text": f"The tower {number} was finished in {1800 + number}.", "gold": True},
                {"title": "Market", "text": f"The market {number} opens at seven."},
            ],
        }
        for number in range(60)
    ]
    dataset = read_dataset(jsonl(*rows), "towers.jsonl")
    examples = dataset_examples(dataset)
    assert 30 < len(examples) < 60
    assert examples == [example for example in dataset.rows if is_in("train", "dataset", example)]
    asked = source_questions(desk, "dataset.12345678", examples, lambda stage, done, total: None)
    assert [one.id for one in asked] == [f"dataset.12345678:{example.id}" for example in examples]
    for one, example in zip(asked, examples, strict=True):
        check(one, example)
    for row in rows:
        for document in row["documents"]:
            document.pop("gold", None)  # type: ignore[attr-defined]
    with pytest.raises(InvalidDataset, match='no question to train on has a document marked "gold": true'):
        dataset_examples(read_dataset(jsonl(*rows), "towers.jsonl"))


def test_the_parts_of_a_data_set_share_no_document_and_no_question() -> None:
    def row(number: int, gold: list[tuple[str, str]], question: str = "") -> dict[str, object]:
        documents = [{"title": title, "text": text, "gold": True} for title, text in gold]
        return {
            "id": f"q{number}",
            "question": question or f"What does question {number} ask?",
            "answers": ["x"],
            "documents": [*documents, {"title": "Market", "text": "Opens at seven."}],
        }

    books = [[(f"Book {n % 40}", f"Page {n}."), (f"Book {n % 40}", f"Back {n}.")] for n in range(400)]
    rows = [row(n, gold) for n, gold in enumerate(books)]
    rows += [row(400 + n, [*books[n][:1], *books[n + 1][:1]]) for n in range(39)]  # over two books
    rows += [row(500 + n, [("", f"Sheet {n % 15}.")]) for n in range(60)]  # without a title
    rows += [row(600 + n, [(f"Essay {n}", "Text.")], f"Who wrote essay {n % 25}?") for n in range(50)]
    dataset = read_dataset(jsonl(*rows), "books.jsonl")
    trained, kept = dataset_examples(dataset), [e for e in dataset.rows if is_in("validation", "dataset", e)]
    assert len(trained) > 250 and len(kept) > 50

    def read_in(examples: list[Example]) -> set[str]:
        return {d.title or d.id for e in examples for d in e.documents if d.title != "Market"}

    assert not read_in(trained) & read_in(kept)
    assert not {e.question for e in trained} & {e.question for e in kept}


def test_what_is_found_does_not_hang_on_what_was_asked_before(desk: SmallDesk, data: Path) -> None:
    source = TaskSource("squad-v2", limit=20)
    first = found(desk, source, data)
    assert found(desk, source, data) == first
    found(desk, TaskSource("squad-v2", part="validation"), data)
    found(desk, TaskSource("squad-v2", limit=60, seed=5), data)
    assert found(desk, source, data) == first


def test_the_examples_are_those_of_the_part_and_as_many_as_asked(data: Path) -> None:
    everything = {example.id for example in find_task("squad-v2").examples(data)}
    parts = {
        part: [e.id for e in TaskSource("squad-v2", part=part).examples(data)] for part in ("train", "validation")
    }
    assert set(parts["train"]) | set(parts["validation"]) == everything
    assert len(parts["train"]) + len(parts["validation"]) == len(everything) == 12 * 12 * 3
    assert parts["train"] and parts["validation"]
    drawn = [e.id for e in TaskSource("squad-v2", limit=30).examples(data)]
    assert len(set(drawn)) == 30 and set(drawn) <= set(parts["train"])
    assert [e.id for e in TaskSource("squad-v2", limit=30).examples(data)] == drawn
    assert [e.id for e in TaskSource("squad-v2", limit=30, seed=1).examples(data)] != drawn
    assert [e.id for e in TaskSource("squad-v2", limit=10**6).examples(data)] == parts["train"]


def test_kept_back_are_the_validation_parts_and_all_of_nq(data: Path) -> None:
    held = kept_back([TaskSource("squad-v2"), TaskSource("hotpotqa", part="all")], data)
    expected = list(find_task("nq", {"documents": 1}).examples(data))
    expected += [e for e in find_task("squad-v2").examples(data) if is_in("validation", "squad-v2", e)]
    assert held.questions == {normal(example.question) for example in expected}
    assert held.texts == {document.title for example in expected for document in example.documents}


def test_a_question_that_differs_in_case_and_punctuation_only_is_held(data: Path) -> None:
    example = next(iter(find_task("squad-v2").examples(data)))
    for evaluated in ("who keeps it", "WHO keeps: it?!", " Who  keeps “it” ?"):
        held = KeptBack(frozenset({normal(evaluated), "and another one"}), frozenset())
        assert held.holds(replace(example, question="Who keeps it?"))
        assert not held.holds(replace(example, question="Who kept it?"))


def test_a_question_about_a_document_that_answers_a_kept_one_is_held(data: Path) -> None:
    example = next(iter(find_task("squad-v2").examples(data)))
    title = example.documents[0].title
    assert KeptBack(frozenset(), frozenset({title, "Another"})).holds(example)
    assert not KeptBack(frozenset(), frozenset({"Another", ""})).holds(example)
    assert KeptBack(frozenset(), frozenset({title})).holds(
        replace(example, gold=())
    )  # nobody knows what answers it


def test_progress_is_told_and_may_stop_the_work(desk: SmallDesk, data: Path) -> None:
    told: list[tuple[str, int, int]] = []
    source = TaskSource("hotpotqa", part="all", limit=5)

    def note(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if stage == "retrieve" and done == 3:
            raise Stop

    with pytest.raises(Stop):
        source_questions(desk, source.task, source.examples(data), note)
    assert [one for one in told if one[0] == "retrieve"] == [("retrieve", done, 5) for done in range(4)]
    assert ("index", 0, 5) in told
    assert len(found(desk, source, data)) == 5


def test_a_missing_file_is_named(desk: SmallDesk, tmp_path: Path) -> None:
    write_squad_v2(tmp_path / "some")
    with pytest.raises(MissingData, match=r"no multihop/hotpotqa_train_100\.jsonl\.gz"):
        found(desk, TaskSource("hotpotqa"), tmp_path / "some")
    with pytest.raises(MissingData, match="nq"):
        kept_back([TaskSource("squad-v2")], tmp_path / "some")


@pytest.mark.parametrize(
    "source",
    [
        TaskSource("nq-oracle", limit=12),
        TaskSource("squad-v2", limit=12),
        TaskSource("squad", {"split": "train", "context": "article"}, part="all", limit=4),
        TaskSource("musique", limit=3),
        TaskSource("pubmedqa", limit=8),
        TaskSource("clapnq", limit=8),
        TaskSource("covidqa", limit=4),
        TaskSource("fairytaleqa", limit=4),
    ],
    ids=lambda source: source.task,
)
def test_real_benchmarks_keep_the_same_promises(source: TaskSource, desk: SmallDesk, shared_data: Path) -> None:
    examples = by_id(source, shared_data)
    asked = found(desk, source, shared_data)
    assert 0 < len(asked) <= len(examples)
    for one in asked:
        check(one, examples[one.id], tells=source.task not in ("pubmedqa", "fairytaleqa", "clapnq"))
