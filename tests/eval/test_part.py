"""Parts of a benchmark: everything is in one of them, and no text in two."""

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from refdesk.eval.errors import InvalidRun
from refdesk.eval.example import Document, Example, Span
from refdesk.eval.part import check_part, is_in
from tests.eval.benchmark import read

TASKS = ["squad", "squad-v2", "nq-oracle", "hotpotqa", "musique", "pubmedqa", "clapnq", "covidqa", "fairytaleqa"]


def asked(number: int, title: str, text: str = "") -> Example:
    """A question about one text."""
    document = Document.of(title, text or f"Paragraph {number} of {title}.")
    return Example(f"id-{number}", f"Question {number}?", ("x",), (document,), (Span(document.id, 0, 5),))


def validation(task: str, examples: list[Example]) -> list[bool]:
    return [is_in("validation", task, example) for example in examples]


@pytest.mark.parametrize("task", ["squad", "pubmedqa", "my-own.jsonl"])
def test_an_example_is_in_one_part_and_in_all(task: str) -> None:
    for number in range(500):
        example = asked(number, f"Title {number}")
        assert is_in("train", task, example) != is_in("validation", task, example)
        assert is_in("all", task, example)


@pytest.mark.parametrize(
    ("task", "share"),
    [
        ("squad", 0.2),
        ("my-own.jsonl", 0.2),
        ("covidqa", 0.3),
        ("hotpotqa", 0.5),
        ("musique", 0.5),
        ("pubmedqa", 0.6),
    ],
)
def test_the_share_that_is_kept_back(task: str, share: float) -> None:
    kept = validation(task, [asked(number, f"Title {number}") for number in range(4000)])
    assert abs(sum(kept) / 4000 - share) < 0.026  # 99.9 % of fair draws


def test_questions_of_one_title_are_in_one_part() -> None:
    examples = [asked(number, f"Title {number % 40}") for number in range(400)]
    parts = defaultdict(set)
    for example, kept in zip(examples, validation("squad", examples), strict=True):
        parts[example.documents[0].title].add(kept)
    assert all(len(found) == 1 for found in parts.values())
    assert len(parts) == 40 and {True, False} == set.union(*parts.values())


def test_of_several_documents_the_gold_one_tells_the_part() -> None:
    for number in range(50):
        alone = asked(number, f"Title {number}")
        others = tuple(Document.of(f"Other {number} {n}", "Something else.") for n in range(19))
        among = Example("another", "Why?", ("x",), (*others[:7], *alone.documents, *others[7:]), alone.gold)
        assert is_in("train", "nq", among) == is_in("train", "nq-oracle", alone)


def test_a_question_over_several_texts_is_in_the_part_of_its_own_id() -> None:
    documents = tuple(Document.of(f"Title {n}", "Text.") for n in range(10))
    gold = tuple(Span(document.id, 0, 5) for document in documents[:2])
    of_both = [Example(f"id-{n}", f"Question {n}?", ("x",), documents, gold) for n in range(400)]
    assert 0.4 < sum(validation("hotpotqa", of_both)) / 400 < 0.6
    unknown = [Example(f"id-{n}", f"Question {n}?", ("x",), documents) for n in range(400)]
    assert validation("hotpotqa", unknown) == validation("hotpotqa", of_both)


def test_a_question_over_two_passages_of_one_text_is_in_the_part_of_its_title() -> None:
    for number in range(50):
        alone = asked(number, f"Title {number}")
        passages = tuple(Document.of(f"Title {number}", f"Passage {n}.") for n in range(2))
        of_both = Example("another", "Why?", ("x",), passages, tuple(Span(d.id, 0, 5) for d in passages))
        assert is_in("train", "my-own.jsonl", of_both) == is_in("train", "my-own.jsonl", alone)


def test_a_question_that_the_shipped_adapter_was_trained_on_stays_in_the_training_part(shared_data: Path) -> None:
    (trained,) = [e for e in read("musique", shared_data) if e.id == "2hop__6584_6587"]
    assert is_in("train", "musique", trained)
    assert is_in("validation", "musique", replace(trained, id="another"))  # so it would be by its title


def test_a_question_without_a_gold_passage_goes_with_its_only_text() -> None:
    for number in range(50):
        with_gold = asked(number, f"Title {number}")
        without = Example("another", "Why?", (), with_gold.documents, answerable=False)
        assert is_in("train", "squad-v2", without) == is_in("train", "squad-v2", with_gold)


def test_texts_without_a_title_are_told_apart_by_what_they_say() -> None:
    examples = [asked(number, "", f"Text {number % 100}.") for number in range(400)]
    kept = validation("my-own.jsonl", examples)
    assert 0.05 < sum(kept) / 400 < 0.4
    assert kept == kept[:100] * 4  # questions about one text are in one part


def test_two_benchmarks_of_the_same_articles_agree() -> None:
    articles = [asked(number, f"Article {number % 30}") for number in range(300)]
    assert validation("squad", articles) == validation("squad-v2", articles) == validation("nq", articles)


def test_rows_301_to_441_of_nq_oracle_are_kept_back_whatever_their_title() -> None:
    for row in range(301, 442):
        example = Example(f"nq-{row}", "Why?", ("x",), asked(row, f"Title {row}").documents)
        assert is_in("validation", "nq-oracle", example) and not is_in("train", "nq-oracle", example)
    later = [asked(row, f"Title {row}") for row in range(442, 1442)]
    renamed = [Example(f"nq-{n}", e.question, e.answers, e.documents, e.gold) for n, e in enumerate(later, 442)]
    assert sum(validation("nq-oracle", renamed)) < 260


@pytest.mark.parametrize("part", ["dev", "", "Train", "test"])
def test_an_unknown_part_is_refused_with_those_that_there_are(part: str) -> None:
    with pytest.raises(InvalidRun, match=f"part is {part!r}; expected one of all, train, validation"):
        check_part(part)
    for known in ("all", "train", "validation"):
        check_part(known)


def test_the_parts_do_not_hang_on_the_hashes_of_the_process() -> None:
    code = (
        "from tests.eval.test_part import asked, validation;"
        "print(validation('squad', [asked(n, f'Title {n}') for n in range(200)]))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{validation('squad', [asked(n, f'Title {n}') for n in range(200)])}\n"}


@pytest.mark.parametrize(("task"), TASKS)
def test_of_a_real_benchmark_about_the_share_said_is_kept_back(task: str, shared_data: Path) -> None:
    examples = read(task, shared_data)
    kept = [example for example in examples if is_in("validation", task, example)]
    trained = [example for example in examples if is_in("train", task, example)]
    assert len(kept) + len(trained) == len(examples)
    expected = {"pubmedqa": 0.6, "hotpotqa": 0.5, "musique": 0.5, "covidqa": 0.3}.get(task, 0.2)
    # Whole texts are drawn, of some benchmarks no more than a dozen.
    wide = {
        "squad": 0.15,
        "squad-v2": 0.2,
        "hotpotqa": 0.13,
        "musique": 0.13,
        "fairytaleqa": 0.15,
        "nq-oracle": 0.08,
    }
    assert abs(len(kept) / len(examples) - expected) < wide.get(task, 0.1)
    titles = {True: set(), False: set()}  # type: dict[bool, set[str]]
    for example in examples:
        if len(example.documents) == 1:
            titles[is_in("validation", task, example)].add(example.documents[0].title)
    shared = titles[True] & titles[False]
    if task != "nq-oracle":  # whose kept back rows are of nq, by number
        assert not shared


def test_no_article_of_squad_is_trained_on_by_the_one_and_evaluated_by_the_other(shared_data: Path) -> None:
    titles = {
        (task, part): {e.documents[0].title for e in read(task, shared_data) if is_in(part, task, e)}
        for task in ("squad", "squad-v2")
        for part in ("train", "validation")
    }
    assert not titles["squad", "train"] & titles["squad-v2", "validation"]
    assert not titles["squad-v2", "train"] & titles["squad", "validation"]
    assert titles["squad", "train"] & titles["squad-v2", "train"]  # they do share articles


def test_no_question_of_nq_may_be_trained_on_out_of_nq_oracle(shared_data: Path) -> None:
    evaluated = {example.question for example in read("nq", shared_data)}
    trained = [e for e in read("nq-oracle", shared_data) if is_in("train", "nq-oracle", e)]
    assert len(evaluated) == 141
    assert not evaluated & {example.question for example in trained}
