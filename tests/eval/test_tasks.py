"""The benchmarks as they are read: stable, complete, and with gold passages that hold what they say."""

import gzip
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from refdesk.eval.errors import InvalidTaskOption, MissingData, UnknownTask
from refdesk.eval.example import Document, DocumentFile, Example, Span
from refdesk.eval.task import Task
from refdesk.eval.tasks import TASKS, find_task

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


@lru_cache(maxsize=1)
def _examples(task: Task, data: Path) -> list[Example]:
    return list(task.examples(data))


def _read(name: str, data: Path, **options: str | int | float) -> list[Example]:
    return _examples(find_task(name, options), data)


def _corpus(task: Task, data: Path) -> dict[str, Document | DocumentFile]:
    documents = list(task.corpus(data))
    named = {document.id: document for document in documents}
    assert len(named) == len(documents)
    return named


def _gold_texts(example: Example) -> list[str]:
    documents = {document.id: document for document in example.documents}
    return [documents[span.document_id].text[span.start : span.end] for span in example.gold]


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
    with pytest.raises(InvalidTaskOption, match=r"kv: unknown option 'depth'; known: keys, gold_at"):
        find_task("kv", {"depth": 1})
    with pytest.raises(InvalidTaskOption, match=r"pubmedqa: unknown option 'depth'; it has none"):
        find_task("pubmedqa", {"depth": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nq", {"documents": 21}, "nq: documents is 21; expected 1 to 20"),
        ("nq", {"documents": 5, "gold_at": 5}, "nq: gold_at is 5; expected 0 to 4"),
        ("nq", {"gold_at": "middle"}, "nq: gold_at is 'middle'; expected int"),
        ("squad", {"context": "page"}, "squad: context is 'page'; expected one of paragraph, article"),
        ("qmsum", {"queries": "both"}, "qmsum: queries is 'both'; expected one of specific, general, all"),
        ("kv", {"keys": 1}, "kv: keys is 1; expected 2 to 75"),
        ("kv", {"keys": 76}, "kv: keys is 76; expected 2 to 75"),
        ("kv", {"keys": 10, "gold_at": 10}, "kv: gold_at is 10; expected -1 to 9"),
        ("kv", {"gold_at": -2}, "kv: gold_at is -2; expected -1 to 74"),
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
    assert (len(_examples(task, shared_data)), len(_corpus(task, shared_data))) == COUNTS[name]


def test_examples_are_the_same_in_every_listing(variant: Task, shared_data: Path) -> None:
    again: Iterator[Example] = variant.examples(shared_data)
    first = _examples(variant, shared_data)
    assert [example.id for example in again] == [example.id for example in first]
    assert len({example.id for example in first}) == len(first)


def test_everything_that_an_example_points_at_is_there(variant: Task, shared_data: Path) -> None:
    corpus = _corpus(variant, shared_data)
    for example in _examples(variant, shared_data):
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
    for example in _examples(variant, shared_data):
        order = {document.id: index for index, document in enumerate(example.documents)}
        places = [(order[span.document_id], span.start) for span in example.gold]
        assert places == sorted(places)


def test_a_question_without_answers_is_unanswerable_or_of_retrieval_alone(
    variant: Task, shared_data: Path
) -> None:
    for example in _examples(variant, shared_data):
        assert example.question == example.question.strip() != ""
        assert bool(example.answers) == (example.answerable and not variant.retrieval_only)
        assert len(set(example.answers)) == len(example.answers)
        assert all(answer.strip() for answer in example.answers)


def test_a_document_means_the_same_text_in_all_questions(variant: Task, shared_data: Path) -> None:
    seen: dict[str, Document] = {}
    for example in _examples(variant, shared_data):
        for document in example.documents:
            assert seen.setdefault(document.id, document) == document


@pytest.mark.parametrize("name", WITH_GOLD)
def test_it_is_known_of_every_question_where_its_answer_stands(name: str, shared_data: Path) -> None:
    assert all(example.gold for example in _read(name, shared_data))


@pytest.mark.parametrize("name", ["hotpotqa", "musique", "2wiki", "nq", "pubmedqa"])
def test_relevant_documents_are_those_that_hold_gold(name: str, shared_data: Path) -> None:
    for example in _read(name, shared_data):
        assert example.relevance == dict.fromkeys((span.document_id for span in example.gold), 1)


@pytest.mark.parametrize("name", ["scifact", "cranfield", "sec10q"])
def test_every_question_of_a_corpus_has_a_relevant_document(name: str, shared_data: Path) -> None:
    assert all(example.relevance for example in _read(name, shared_data))


def test_gold_at_moves_the_gold_document_and_nothing_else(shared_data: Path) -> None:
    first = _read("nq", shared_data)
    for at in (1, 19):
        for example, moved in zip(first, _read("nq", shared_data, gold_at=at), strict=True):
            gold, *others = example.documents
            assert moved.gold == (Span(gold.id, 0, len(gold.text)),)
            assert moved.documents[at] == gold
            assert [document for document in moved.documents if document != gold] == others
            assert moved.facts["gold_at"] == at


@pytest.mark.parametrize("name", ["squad", "squad-v2"])
@pytest.mark.parametrize("context", ["paragraph", "article"])
def test_an_answer_of_squad_stands_in_the_gold_passage(name: str, context: str, shared_data: Path) -> None:
    for example in _read(name, shared_data, context=context):
        (passage,) = _gold_texts(example)
        assert all(answer in passage for answer in example.answers)


def test_an_answer_of_covidqa_stands_in_the_gold_passage_below_the_papers_header(shared_data: Path) -> None:
    for example in _read("covidqa", shared_data):
        (passage,) = _gold_texts(example)
        assert example.answers[0] in passage
        assert not passage.startswith(("SHA:", "DOI:", "Date:", "License:", "http"))


def test_two_to_four_paragraphs_are_needed_for_a_multi_hop_question(shared_data: Path) -> None:
    hops = {name: [len(row.gold) for row in _read(name, shared_data)] for name in ("hotpotqa", "musique", "2wiki")}
    assert {name: set(counts) for name, counts in hops.items()} == {
        "hotpotqa": {2},
        "musique": {2, 3, 4},
        "2wiki": {2, 4},
    }
    for example in _read("musique", shared_data):
        assert example.facts["hops"] == len(example.gold)


def test_pubmedqa_has_the_balance_of_its_paper(shared_data: Path) -> None:
    answers = [example.answers[0] for example in _read("pubmedqa", shared_data)]
    assert [answers.count(answer) for answer in ("yes", "no", "maybe")] == [276, 169, 55]


def test_a_span_of_qmsum_begins_at_a_speaker_and_ends_at_the_end_of_a_turn(shared_data: Path) -> None:
    for example in _read("qmsum", shared_data):
        (document,) = example.documents
        for span in example.gold:
            assert span.start == 0 or document.text[span.start - 1] == "\n"
            assert span.end == len(document.text) or document.text[span.end] == "\n"


def test_spans_of_qmsum_that_touch_or_overlap_are_one(tmp_path: Path) -> None:
    spans = [["5", "5"], ["0", "1"], ["2", "3"], ["1", "1"]]
    meeting = {
        "meeting_id": "m",
        "meeting_transcripts": [{"speaker": "A", "content": str(number)} for number in range(7)],
        "general_query_list": [],
        "specific_query_list": [{"query": "What?", "answer": "It.", "relevant_text_span": spans}],
    }
    (tmp_path / "qmsum").mkdir()
    (tmp_path / "qmsum" / "val.jsonl.gz").write_bytes(gzip.compress(json.dumps(meeting).encode()))
    (example,) = find_task("qmsum").examples(tmp_path)
    assert _gold_texts(example) == ["A: 0\nA: 1\nA: 2\nA: 3", "A: 5"]


def test_general_queries_of_qmsum_are_of_the_whole_meeting(shared_data: Path) -> None:
    general = _read("qmsum", shared_data, queries="general")
    assert len(general) == 35
    assert not any(example.gold for example in general)
    assert len(_read("qmsum", shared_data, queries="all")) == 35 + 237


def test_every_question_of_squality_has_four_references_and_a_title_of_the_story(shared_data: Path) -> None:
    for example in _read("squality", shared_data):
        assert len(example.answers) == 4
        title = example.documents[0].title
        assert title and not title.startswith(("Produced", "Distributed", "*"))


def test_half_of_clapnq_is_unanswerable_and_stands_between_the_others(shared_data: Path) -> None:
    examples = _read("clapnq", shared_data)
    assert [example.answerable for example in examples] == [True, False] * 150
    for example in examples:
        assert bool(example.gold) == example.answerable


def test_sec10q_knows_the_files_of_each_question_and_keeps_their_names_out_of_the_answers(
    shared_data: Path,
) -> None:
    task = find_task("sec10q")
    files = _corpus(task, shared_data)
    assert all(isinstance(file, DocumentFile) and file.path.is_file() for file in files.values())
    assert list(files) == sorted(files)
    first, *_ = examples = _examples(task, shared_data)
    assert set(first.relevance) == {
        f"{quarter} AAPL.pdf" for quarter in ("2022 Q3", "2023 Q1", "2023 Q2", "2023 Q3")
    }
    assert {len(example.relevance) for example in examples} == {1, 4}
    for example in examples:
        assert not re.search(r"SOURCE|\([^()]*\.pdf", example.answers[0])
    # The sources of this one stand in the middle of the answer too; what is behind them is kept.
    assert first.answers[0].startswith("Based on the provided documents") and first.answers[0].endswith(
        "July 1, 2023."
    )


def test_cranfield_leaves_out_documents_without_a_word_and_says_no_title_twice(shared_data: Path) -> None:
    corpus = _corpus(find_task("cranfield"), shared_data)
    assert {str(number) for number in range(1, 1401)} - set(corpus) == {"471", "995"}
    document = corpus["1"]
    assert isinstance(document, Document)
    assert document.title == "experimental investigation of the aerodynamics of a wing in a slipstream ."
    assert document.text.startswith("an experimental study of a wing")


def test_queries_of_cranfield_are_joined_by_the_ids_that_were_judged(shared_data: Path) -> None:
    third = _read("cranfield", shared_data)[2]
    assert third.question.startswith("what problems of heat conduction")
    # Judged for query 3; the XML calls the same one 4.
    assert set(third.relevance) == {"5", "6", "90", "91", "119", "144", "181", "399"}


@pytest.mark.parametrize(("keys", "gold_at"), [(75, -1), (75, 0), (75, 74), (10, -1), (10, 4), (2, 1)])
def test_the_gold_line_of_kv_holds_the_key_and_its_value(keys: int, gold_at: int, shared_data: Path) -> None:
    for example in _read("kv", shared_data, keys=keys, gold_at=gold_at):
        (line,) = _gold_texts(example)
        (key,) = re.findall(r'"(.+)"\?$', example.question)
        assert line == f'"{key}": "{example.answers[0]}"'
        lines = example.documents[0].text.splitlines()
        assert len(lines) == keys
        assert line in lines[int(example.facts["gold_at"])]
        assert gold_at in (-1, example.facts["gold_at"])


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("words", [200, 5000])
def test_a_needle_stands_once_at_the_depth_that_was_asked(depth: float, words: int, shared_data: Path) -> None:
    for example in _read("needle", shared_data, words=words, depth=depth, count=50):
        text = example.documents[0].text
        (needle,) = _gold_texts(example)
        assert text.count(example.answers[0]) == needle.count(example.answers[0]) == 1
        assert re.fullmatch(r"\d{5}", example.answers[0])
        assert example.question.removeprefix("What is the passkey of ").rstrip("?") in needle
        before, after = text[: example.gold[0].start].split(), text[example.gold[0].end :].split()
        # Up to the next end of a sentence, at both ends; the longest ones run over more than a hundred words.
        assert abs(len(before) + len(after) - words) <= 110
        assert abs(len(before) - depth * words) <= 110
        assert example.facts == {"depth": depth, "words": words}


def test_a_needle_stands_between_two_sentences(shared_data: Path) -> None:
    for example in _read("needle", shared_data, words=1000):
        text, span = example.documents[0].text, example.gold[0]
        assert not span.start or re.search(r"""[^ ]["']?\s+$""", text[: span.start])
        assert span.end == len(text) or text[span.end] == " "
        assert not re.search(r"\b(St|Mr|Mrs|M)\.\s+$", text[: span.start])
        assert not text[span.end :].startswith(" CHAPTER")


def test_needles_are_spread_over_all_depths_unless_one_is_asked(shared_data: Path) -> None:
    examples = _read("needle", shared_data, words=1000, count=5)
    assert [example.facts["depth"] for example in examples] == [0, 0.25, 0.5, 0.75, 1]
    assert len({example.documents[0].id for example in examples}) == 5
    (only,) = _read("needle", shared_data, words=1000, count=1)
    assert only.facts["depth"] == 0


def test_a_needle_is_the_same_at_every_length_and_another_with_another_seed(shared_data: Path) -> None:
    def asked(**options: int | float) -> list[tuple[str, tuple[str, ...]]]:
        return [(row.question, row.answers) for row in _read("needle", shared_data, count=20, **options)]

    assert asked(words=200) == asked(words=3000, depth=0.7) != asked(words=200, seed=1)
