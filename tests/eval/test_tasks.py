"""The benchmarks as they are read: stable, complete, and with gold passages that hold what they say."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from refdesk.eval.errors import InvalidTaskOption, MissingData, UnknownTask
from refdesk.eval.example import Document, Example
from refdesk.eval.task import Task
from refdesk.eval.tasks import TASKS, find_task
from tests.eval.benchmark import corpus_of, listed, read

# Without these, nothing else of a task is looked for: the first file that each one misses in an empty folder.
FIRST_FILES = {
    "nq": "nq-open-20_total_documents_gold_at_0.rows301-.jsonl.gz",
    "nq-oracle": "nq-open-oracle.rows301-.jsonl.gz",
    "squad": "dev-v1.1.given.json.gz",
    "squad-v2": "dev-v2.0.given.json.gz",
    "hotpotqa": "hotpotqa_train_100.jsonl.gz",
    "musique": "musique_train_100.jsonl.gz",
    "2wiki": "2wikimultihopqa_dev.given.jsonl.gz",
    "fairytaleqa": "fairytaleqa/val.jsonl.gz",
    "covidqa": "covidQA.given.json.gz",
    "policyqa": "policyqa/dev.json.gz",
    "tatqa": "tatqa_dataset_dev.json.gz",
    "wikitables": "pages_and_tables.tar.gz",
    "pubmedqa": "ori_pqal.train500.json.gz",
    "clapnq": "clapnq_dev_answerable.rows1-150.jsonl.gz",
    "qmsum": "qmsum/val.jsonl.gz",
    "squality": "dev.v1-3.jsonl.gz",
    "sec10q": "qna_data.csv",
    "kv": "kv-retrieval-75_keys.jsonl.gz",
    "needle": "war_and_peace.txt.gz",
    "scifact": "claims_train.jsonl.gz",
    "cranfield": "queries.jsonl.gz",
}

# Examples, and documents where all of them share one corpus.
COUNTS = {
    "nq": (141, 0),
    "nq-oracle": (2355, 0),
    "squad": (4862, 0),
    "squad-v2": (4186, 0),
    "hotpotqa": (100, 0),
    "musique": (100, 0),
    "2wiki": (76, 0),
    "fairytaleqa": (1025, 0),
    "covidqa": (708, 0),
    "policyqa": (3809, 0),
    "tatqa": (686, 0),
    "wikitables": (307, 0),
    "pubmedqa": (500, 0),
    "clapnq": (300, 0),
    "qmsum": (237, 0),
    "squality": (125, 0),
    "sec10q": (195, 20),
    "kv": (500, 0),
    "needle": (100, 0),
    "scifact": (809, 5183),
    "cranfield": (225, 1398),
}

# One row for each task with its options as they are, one for each option that changes what is read.
VARIANTS: list[tuple[str, dict[str, str | int | float]]] = [
    *((name, {}) for name in TASKS),
    ("nq", {"documents": 5, "gold_at": 3}),
    ("squad", {"context": "article"}),
    ("squad-v2", {"context": "article"}),
    ("policyqa", {"context": "policy"}),
    ("qmsum", {"queries": "general"}),
    ("qmsum", {"queries": "all"}),
    ("kv", {"keys": 2}),
    ("kv", {"keys": 40, "gold_at": 39}),
    ("needle", {"words": 100, "count": 300}),
    ("needle", {"words": 550_000, "depth": 0.5, "count": 2}),
]

# Where every question has a known place of its answer.
WITH_GOLD = [name for name in TASKS if name not in {"clapnq", "squality", "sec10q", "scifact", "cranfield"}]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, (variant[0], *variant[1].values()))))
def variant(request: pytest.FixtureRequest) -> Task:
    """Each task, and some of them with other options."""
    name, options = request.param
    return find_task(name, options)


def test_the_tables_of_this_file_name_every_task() -> None:
    assert set(FIRST_FILES) == set(COUNTS) == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_is(name: str) -> None:
    task = find_task(name)
    assert task.summary and task.source and task.metrics
    assert len(set(task.metrics)) == len(task.metrics)
    assert find_task(name, {option: str(value) for option, value in task.options().items()}) == task


@pytest.mark.parametrize("name", TASKS)
def test_an_empty_folder_is_missing_data_and_the_message_names_the_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=re.escape(FIRST_FILES[name])) as error:
        list(find_task(name).examples(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", [name for name, (_, documents) in COUNTS.items() if documents])
def test_a_corpus_that_is_not_there_is_missing_data(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="expected the benchmark data"):
        list(find_task(name).corpus(tmp_path))


def test_an_unknown_task_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UnknownTask, match=r"'triviaqa'.*squad.*cranfield"):
        find_task("triviaqa")


def test_an_unknown_option_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidTaskOption, match=r"kv: unknown option 'depth'; known: keys, gold_at, "):
        find_task("kv", {"depth": 1})
    with pytest.raises(InvalidTaskOption, match=r"clapnq: unknown option 'depth'; it has none"):
        find_task("clapnq", {"depth": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nq", {"documents": 21}, "nq: documents is 21; expected 1 to 20"),
        ("nq", {"documents": 5, "gold_at": 5}, "nq: gold_at is 5; expected 0 to 4"),
        ("nq", {"gold_at": "middle"}, "nq: gold_at is 'middle'; expected int"),
        ("qmsum", {"split": "test"}, "qmsum: split is 'test'; expected one of validation, train"),
        ("pubmedqa", {"answer": "short"}, "pubmedqa: answer is 'short'; expected one of choice, long"),
        ("squad", {"context": "page"}, "squad: context is 'page'; expected one of paragraph, article"),
        ("policyqa", {"context": "article"}, "policyqa: context is 'article'; expected one of paragraph, policy"),
        ("qmsum", {"queries": "both"}, "qmsum: queries is 'both'; expected one of specific, general, all"),
        ("kv", {"keys": 1}, "kv: keys is 1; expected 2 to 30000"),
        ("kv", {"keys": 30001}, "kv: keys is 30001; expected 2 to 30000"),
        ("kv", {"keys": 10, "gold_at": 10}, "kv: gold_at is 10; expected -1 to 9"),
        ("kv", {"gold_at": -2}, "kv: gold_at is -2; expected -1 to 74"),
        ("kv", {"keys": 10, "questions": 11}, "kv: questions is 11; expected 1 to 10"),
        ("kv", {"gold_at": 3, "questions": 2}, "kv: gold_at is 3, but questions is 2; expected one or the other"),
        ("kv", {"texts": 501}, "kv: texts is 501; expected 1 to 500"),
        ("needle", {"words": 99}, "needle: words is 99; expected 100 to 550000"),
        ("needle", {"words": 550_001}, "needle: words is 550001; expected 100 to 550000"),
        ("needle", {"depth": 1.01}, "needle: depth is 1.01; expected 0 to 1"),
        ("needle", {"depth": -0.5}, "needle: depth is -0.5; expected 0 to 1"),
        ("needle", {"depth": "nan"}, "needle: depth is nan; expected 0 to 1"),
        ("needle", {"count": 0}, "needle: count is 0; expected 1 to 1000"),
        ("needle", {"seed": "x"}, "needle: seed is 'x'; expected int"),
    ],
)
def test_a_value_that_a_task_cannot_use_is_refused_by_name(
    name: str, options: dict[str, str | int | float], message: str
) -> None:
    with pytest.raises(InvalidTaskOption) as error:
        find_task(name, options)
    assert str(error.value) == message


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_as_many_questions_and_documents_as_its_paper_or_files_say(
    name: str, shared_data: Path
) -> None:
    task = find_task(name)
    assert (len(listed(task, shared_data)), len(corpus_of(task, shared_data))) == COUNTS[name]


def test_examples_are_the_same_in_every_listing(variant: Task, shared_data: Path) -> None:
    again: Iterator[Example] = variant.examples(shared_data)
    first = listed(variant, shared_data)
    assert [example.id for example in again] == [example.id for example in first]
    assert len({example.id for example in first}) == len(first)


def test_everything_that_an_example_points_at_is_there(variant: Task, shared_data: Path) -> None:
    corpus = corpus_of(variant, shared_data)
    for example in listed(variant, shared_data):
        known = dict(corpus)
        for document in example.documents:
            # The same text twice would be found twice, and a name of two texts would be read as either.
            assert document.id not in known and document.text.strip()
            known[document.id] = document
        assert known and set(example.relevance) <= set(known)
        assert all(grade > 0 for grade in example.relevance.values())
        assert len(set(example.gold)) == len(example.gold)
        for span in example.gold:
            document = known[span.document_id]
            assert isinstance(document, Document)
            assert 0 <= span.start < span.end <= len(document.text)
            assert document.text[span.start : span.end].strip()


def test_gold_passages_of_a_document_come_in_reading_order(variant: Task, shared_data: Path) -> None:
    for example in listed(variant, shared_data):
        order = {document.id: index for index, document in enumerate(example.documents)}
        places = [(order[span.document_id], span.start) for span in example.gold]
        assert places == sorted(places)


def test_a_question_without_answers_is_unanswerable_or_of_retrieval_alone(
    variant: Task, shared_data: Path
) -> None:
    for example in listed(variant, shared_data):
        assert example.question == example.question.strip() != ""
        assert bool(example.answers) == (example.answerable and not variant.retrieval_only)
        assert len(set(example.answers)) == len(example.answers)
        assert all(answer.strip() for answer in example.answers)


def test_a_document_means_the_same_text_in_all_questions(variant: Task, shared_data: Path) -> None:
    seen: dict[str, Document] = {}
    for example in listed(variant, shared_data):
        for document in example.documents:
            assert seen.setdefault(document.id, document) == document


@pytest.mark.parametrize("name", WITH_GOLD)
def test_it_is_known_of_every_question_where_its_answer_stands(name: str, shared_data: Path) -> None:
    assert all(example.gold for example in read(name, shared_data))


@pytest.mark.parametrize("name", ["hotpotqa", "musique", "2wiki", "nq", "pubmedqa"])
def test_relevant_documents_are_those_that_hold_gold(name: str, shared_data: Path) -> None:
    for example in read(name, shared_data):
        assert example.relevance == dict.fromkeys((span.document_id for span in example.gold), 1)


@pytest.mark.parametrize("name", ["scifact", "cranfield", "sec10q"])
def test_every_question_of_a_corpus_has_a_relevant_document(name: str, shared_data: Path) -> None:
    assert all(example.relevance for example in read(name, shared_data))
