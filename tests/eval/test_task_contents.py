"""What each benchmark holds of its own: the gold where its paper says, and nothing that gives the answer away."""

import gzip
import json
import re
from pathlib import Path

import pytest

from refdesk.eval.example import Document, DocumentFile, Span
from refdesk.eval.tasks import find_task
from tests.eval.benchmark import corpus_of, gold_texts, listed, read


def test_gold_at_moves_the_gold_document_and_nothing_else(shared_data: Path) -> None:
    first = read("nq", shared_data)
    for at in (1, 19):
        for example, moved in zip(first, read("nq", shared_data, gold_at=at), strict=True):
            gold, *others = example.documents
            assert moved.gold == (Span(gold.id, 0, len(gold.text)),)
            assert moved.documents[at] == gold
            assert [document for document in moved.documents if document != gold] == others
            assert moved.facts["gold_at"] == at


@pytest.mark.parametrize("name", ["squad", "squad-v2"])
@pytest.mark.parametrize("context", ["paragraph", "article"])
def test_an_answer_of_squad_stands_in_the_gold_passage(name: str, context: str, shared_data: Path) -> None:
    for example in read(name, shared_data, context=context):
        (passage,) = gold_texts(example)
        assert all(answer in passage for answer in example.answers)


def test_an_answer_of_covidqa_stands_in_the_gold_passage_below_the_papers_header(shared_data: Path) -> None:
    for example in read("covidqa", shared_data):
        (passage,) = gold_texts(example)
        assert example.answers[0] in passage
        assert not passage.startswith(("SHA:", "DOI:", "Date:", "License:", "http"))


def test_two_to_four_paragraphs_are_needed_for_a_multi_hop_question(shared_data: Path) -> None:
    hops = {name: [len(row.gold) for row in read(name, shared_data)] for name in ("hotpotqa", "musique", "2wiki")}
    assert {name: set(counts) for name, counts in hops.items()} == {
        "hotpotqa": {2},
        "musique": {2, 3, 4},
        "2wiki": {2, 4},
    }
    for example in read("musique", shared_data):
        assert example.facts["hops"] == len(example.gold)


def test_pubmedqa_has_the_balance_of_its_paper(shared_data: Path) -> None:
    answers = [example.answers[0] for example in read("pubmedqa", shared_data)]
    assert [answers.count(answer) for answer in ("yes", "no", "maybe")] == [276, 169, 55]


def test_a_span_of_qmsum_begins_at_a_speaker_and_ends_at_the_end_of_a_turn(shared_data: Path) -> None:
    for example in read("qmsum", shared_data):
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
    assert gold_texts(example) == ["A: 0\nA: 1\nA: 2\nA: 3", "A: 5"]


def test_general_queries_of_qmsum_are_of_the_whole_meeting(shared_data: Path) -> None:
    general = read("qmsum", shared_data, queries="general")
    assert len(general) == 35
    assert not any(example.gold for example in general)
    assert len(read("qmsum", shared_data, queries="all")) == 35 + 237


def test_every_question_of_squality_has_four_references_and_a_title_of_the_story(shared_data: Path) -> None:
    for example in read("squality", shared_data):
        assert len(example.answers) == 4
        title = example.documents[0].title
        assert title and not title.startswith(("Produced", "Distributed", "*"))


def test_half_of_clapnq_is_unanswerable_and_stands_between_the_others(shared_data: Path) -> None:
    examples = read("clapnq", shared_data)
    assert [example.answerable for example in examples] == [True, False] * 150
    for example in examples:
        assert bool(example.gold) == example.answerable


def test_sec10q_knows_the_files_of_each_question_and_keeps_their_names_out_of_the_answers(
    shared_data: Path,
) -> None:
    task = find_task("sec10q")
    files = corpus_of(task, shared_data)
    assert all(isinstance(file, DocumentFile) and file.path.is_file() for file in files.values())
    assert list(files) == sorted(files)
    first, *_ = examples = listed(task, shared_data)
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
    corpus = corpus_of(find_task("cranfield"), shared_data)
    assert {str(number) for number in range(1, 1401)} - set(corpus) == {"471", "995"}
    document = corpus["1"]
    assert isinstance(document, Document)
    assert document.title == "experimental investigation of the aerodynamics of a wing in a slipstream ."
    assert document.text.startswith("an experimental study of a wing")


def test_queries_of_cranfield_are_joined_by_the_ids_that_were_judged(shared_data: Path) -> None:
    third = read("cranfield", shared_data)[2]
    assert third.question.startswith("what problems of heat conduction")
    # Judged for query 3; the XML calls the same one 4.
    assert set(third.relevance) == {"5", "6", "90", "91", "119", "144", "181", "399"}


@pytest.mark.parametrize(("keys", "gold_at"), [(75, -1), (75, 0), (75, 74), (10, -1), (10, 4), (2, 1), (300, -1)])
def test_the_gold_line_of_kv_holds_the_key_and_its_value(keys: int, gold_at: int, shared_data: Path) -> None:
    for example in read("kv", shared_data, keys=keys, gold_at=gold_at):
        (line,) = gold_texts(example)
        (key,) = re.findall(r'"(.+)"\?$', example.question)
        assert line == f'"{key}": "{example.answers[0]}"'
        lines = example.documents[0].text.splitlines()
        assert len(set(lines)) == len(lines) == keys
        assert line in lines[int(example.facts["gold_at"])]
        assert gold_at in (-1, example.facts["gold_at"])


def test_the_gold_line_of_kv_stands_as_deep_in_a_longer_text(shared_data: Path) -> None:
    for short, long in zip(read("kv", shared_data), read("kv", shared_data, keys=300), strict=True):
        assert long.facts["gold_at"] == 4 * int(short.facts["gold_at"])
        assert set(short.documents[0].text.strip("{}").splitlines()[1:-1]) <= set(
            long.documents[0].text.splitlines()
        )


def test_several_questions_of_kv_ask_one_text_from_its_beginning_to_its_end(shared_data: Path) -> None:
    examples = read("kv", shared_data, keys=200, questions=5, texts=2)
    assert [example.facts["gold_at"] for example in examples] == 2 * [20, 60, 100, 140, 180]
    for text in (examples[:5], examples[5:]):
        assert len({example.documents[0].id for example in text}) == 1
    assert examples[0].documents[0].id != examples[5].documents[0].id
    for example in examples:
        (line,) = gold_texts(example)
        (key,) = re.findall(r'"(.+)"\?$', example.question)
        assert line == f'"{key}": "{example.answers[0]}"'
        assert example.documents[0].text.count(key) == 1


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("words", [200, 5000])
def test_a_needle_stands_once_at_the_depth_that_was_asked(depth: float, words: int, shared_data: Path) -> None:
    for example in read("needle", shared_data, words=words, depth=depth, count=50):
        text = example.documents[0].text
        (needle,) = gold_texts(example)
        assert text.count(example.answers[0]) == needle.count(example.answers[0]) == 1
        assert re.fullmatch(r"\d{5}", example.answers[0])
        assert example.question.removeprefix("What is the passkey of ").rstrip("?") in needle
        before, after = text[: example.gold[0].start].split(), text[example.gold[0].end :].split()
        # Up to the next end of a sentence, at both ends; the longest ones run over more than a hundred words.
        assert abs(len(before) + len(after) - words) <= 110
        assert abs(len(before) - depth * words) <= 110
        assert example.facts == {"depth": depth, "words": words}


def test_a_needle_stands_between_two_sentences(shared_data: Path) -> None:
    for example in read("needle", shared_data, words=1000):
        text, span = example.documents[0].text, example.gold[0]
        assert not span.start or re.search(r"""[^ ]["']?\s+$""", text[: span.start])
        assert span.end == len(text) or text[span.end] == " "
        assert not re.search(r"\b(St|Mr|Mrs|M)\.\s+$", text[: span.start])
        assert not text[span.end :].startswith(" CHAPTER")


def test_needles_are_spread_over_all_depths_unless_one_is_asked(shared_data: Path) -> None:
    examples = read("needle", shared_data, words=1000, count=5)
    assert [example.facts["depth"] for example in examples] == [0, 0.25, 0.5, 0.75, 1]
    assert len({example.documents[0].id for example in examples}) == 5
    (only,) = read("needle", shared_data, words=1000, count=1)
    assert only.facts["depth"] == 0


def test_a_needle_is_the_same_at_every_length_and_another_with_another_seed(shared_data: Path) -> None:
    def asked(**options: int | float) -> list[tuple[str, tuple[str, ...]]]:
        return [(row.question, row.answers) for row in read("needle", shared_data, count=20, **options)]

    assert asked(words=200) == asked(words=3000, depth=0.7) != asked(words=200, seed=1)
