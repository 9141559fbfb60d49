"""Benchmarks of tables and of policies: small files in the layout of the real ones, and the real ones."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from refdesk.eval.errors import MissingData
from refdesk.eval.tasks import find_task
from tests.eval.benchmark import gold_texts, read

FILES = {
    "tatqa": "tatqa/tatqa_dataset_dev.json.gz",
    "wikitables": "wikitablequestions_html/questions.jsonl.gz",
    "policyqa": "policyqa/dev.json.gz",
}
TABLES = "wikitablequestions_html/pages_and_tables.tar.gz"
TABLE = '"Year","Song","Peak\nUS"\n"1950","\\"How Far Is\nHeaven\\"","—"\n"1952","Glory, Land","27"\n'


def write(data: Path, name: str, content: str) -> None:
    """A gzipped file of the data folder."""
    path = data / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()))


def financial(*questions: dict[str, Any]) -> str:
    """A file of one context, whose paragraphs do not stand in their order."""
    paragraphs = [
        {"order": 2, "text": "Sales in 2018  were 1,056.7 million."},
        {"order": 1, "text": "All contracts are fixed-price type contracts."},
    ]
    usual = {"answer_type": "span", "answer_from": "table", "rel_paragraphs": [], "req_comparison": False}
    rows = [{"uid": f"q{number}", **usual, **question} for number, question in enumerate(questions)]
    table = {"uid": "t", "table": [["", "2019 ", "2018"], ["Other", "$  44.1", "56.7"]]}
    return json.dumps([{"table": table, "paragraphs": paragraphs, "questions": rows}])


def test_a_document_of_tatqa_is_its_table_and_then_its_paragraphs_in_order(tmp_path: Path) -> None:
    write(tmp_path, FILES["tatqa"], financial({"question": " What was Other in 2019? ", "answer": ["$  44.1"]}))
    (example,) = find_task("tatqa").examples(tmp_path)
    assert example.documents[0].text == (
        " | 2019 | 2018\nOther | $ 44.1 | 56.7\n\n"
        "All contracts are fixed-price type contracts.\n\n"
        "Sales in 2018  were 1,056.7 million."
    )
    assert (example.id, example.question, example.answers) == ("tatqa-q0", "What was Other in 2019?", ("$ 44.1",))
    assert gold_texts(example) == [" | 2019 | 2018\nOther | $ 44.1 | 56.7"]
    assert example.facts == {"answer_from": "table", "comparison": 0}


@pytest.mark.parametrize(
    ("question", "begins"),
    [
        ({"answer": ["fixed-price type"], "answer_from": "text", "rel_paragraphs": ["1"]}, ["All"]),
        ({"answer": ["2018  were"], "answer_from": "text", "rel_paragraphs": ["1", "2"]}, ["Sales"]),
        ({"answer": ["2018"], "answer_from": "table", "rel_paragraphs": ["2"]}, [" | 2019"]),
        ({"answer": ["2018"], "answer_from": "table-text", "rel_paragraphs": ["2"]}, [" | 2019", "Sales"]),
        ({"answer": ["56.7"], "answer_from": "table-text", "rel_paragraphs": ["2"]}, [" | 2019"]),
        ({"answer": ["2019"], "answer_type": "multi-span"}, [" | 2019"]),
    ],
)
def test_the_gold_of_tatqa_is_what_the_answer_is_from_and_stands_in(
    question: dict[str, Any], begins: list[str], tmp_path: Path
) -> None:
    write(tmp_path, FILES["tatqa"], financial({"question": "?", **question}))
    (example,) = find_task("tatqa").examples(tmp_path)
    passages = gold_texts(example)
    assert [passage[: len(begin)] for passage, begin in zip(passages, begins, strict=True)] == begins
    assert all(example.answers[0] in passage for passage in passages)


@pytest.mark.parametrize(
    "question",
    [
        {"answer": -12.6, "answer_type": "arithmetic"},
        {"answer": "2", "answer_type": "count"},
        {"answer": ["2019", "2018"], "answer_type": "multi-span"},
        {"answer": ["Fixed price"], "answer_from": "text", "rel_paragraphs": ["1"]},
        {"answer": ["Sales"]},
        {"answer": ["056.7"], "answer_from": "text", "rel_paragraphs": ["2"]},
        {"answer": ["44"]},
    ],
    ids=["computed", "counted", "several", "in other words", "not from there", "of a number", "of a fraction"],
)
def test_tatqa_leaves_out_what_is_not_said_in_one_span(question: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, FILES["tatqa"], financial({"question": "?", **question}))
    assert list(find_task("tatqa").examples(tmp_path)) == []


def write_tables(data: Path, *questions: tuple[str, list[str]], tables: str = TABLE) -> None:
    """Questions and the archive with the table that they ask about."""
    about = {"csv": "csv/204-csv/5.csv", "html": "page/204-page/5.html", "page_title": "Kitty Wells"}
    rows = [
        {"id": f"nt-{number}", "question": question, "answer": answer, **about}
        for number, (question, answer) in enumerate(questions)
    ]
    write(data, FILES["wikitables"], "\n".join(map(json.dumps, rows)))
    with tarfile.open(data / TABLES, "w:gz") as archive:
        member = tarfile.TarInfo(about["csv"])
        member.size = len(tables.encode())
        archive.addfile(member, io.BytesIO(tables.encode()))


def test_a_document_of_wikitables_is_the_table_as_lines(tmp_path: Path) -> None:
    write_tables(tmp_path, ("which song peaked at 27? ", ["Glory,\nLand"]))
    (example,) = find_task("wikitables").examples(tmp_path)
    (document,) = example.documents
    assert document.title == "Kitty Wells"
    assert document.text == ('Year | Song | Peak US\n1950 | "How Far Is Heaven" | —\n1952 | Glory, Land | 27')
    assert (example.id, example.question) == ("wikitables-nt-0", "which song peaked at 27?")
    assert example.answers == ("Glory, Land",)
    assert gold_texts(example) == [document.text]


def test_wikitables_leaves_out_what_is_computed(tmp_path: Path) -> None:
    write_tables(
        tmp_path,
        ("what year was glory land released?", ["1952"]),
        ("which song has the largest total?", ["Glory, Land"]),
        ("how many songs are there?", ["27"]),
        ("what is the difference between both?", ["27"]),
        ("what year was neither?", ["195"]),
        ("was it heaven?", ["No"]),
        ("what are the years?", ["1950", "1952"]),
    )
    assert [row.id for row in find_task("wikitables").examples(tmp_path)] == ["wikitables-nt-0", "wikitables-nt-1"]


def test_a_table_that_is_not_in_the_archive_is_missing_data(tmp_path: Path) -> None:
    write_tables(tmp_path, ("which year?", ["1950"]))
    with tarfile.open(tmp_path / TABLES, "w:gz"):
        pass
    with pytest.raises(MissingData, match=r"no csv/204-csv/5\.csv in .*pages_and_tables"):
        list(find_task("wikitables").examples(tmp_path))


@pytest.mark.parametrize("damage", ["text", "cut", "flipped"])
def test_a_damaged_archive_is_missing_data(damage: str, tmp_path: Path) -> None:
    write_tables(tmp_path, ("which year?", ["1950"]), tables=TABLE * 2000)
    path = tmp_path / TABLES
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "text": b"no archive",
            "cut": whole[:middle],
            "flipped": whole[:middle]
            + bytes(byte ^ 255 for byte in whole[middle : middle + 40])
            + whole[middle + 40 :],
        }[damage]
    )
    with pytest.raises(MissingData, match=r"pages_and_tables.*cannot be read"):
        list(find_task("wikitables").examples(tmp_path))


def policies() -> str:
    """A file of one policy, two of whose paragraphs were asked the same."""

    def asked(name: str, question: str, *answers: str) -> dict[str, Any]:
        found = [{"text": answer, "answer_start": 0} for answer in answers]
        return {"id": name, "question": question, "type": "Data Security", "answers": found}

    paragraphs = [
        {
            "context": "We store your email. We sell it.",
            "qas": [
                asked("a", "What is stored?", "your email", "email", "email"),
                asked("b", "Is it sold?", "We sell it"),
            ],
        },
        {"context": "We also store your name.", "qas": [asked("c", "What is stored? ", "your name")]},
    ]
    return json.dumps({"version": "1", "data": [{"title": "example.com", "paragraphs": paragraphs}]})


def test_a_paragraph_of_policyqa_is_asked_what_was_written_for_it(tmp_path: Path) -> None:
    write(tmp_path, FILES["policyqa"], policies())
    first, second, third = find_task("policyqa").examples(tmp_path)
    assert [row.id for row in (first, second, third)] == ["policyqa-a", "policyqa-b", "policyqa-c"]
    assert first.answers == ("your email", "email")
    assert first.documents == second.documents
    assert first.documents[0].title == "example.com"
    assert gold_texts(first) == ["We store your email. We sell it."]
    assert (third.question, gold_texts(third)) == ("What is stored?", ["We also store your name."])


def test_a_whole_policy_is_asked_once_and_any_paragraph_may_answer(tmp_path: Path) -> None:
    write(tmp_path, FILES["policyqa"], policies())
    stored, sold = find_task("policyqa", {"context": "policy"}).examples(tmp_path)
    assert stored.documents == sold.documents
    assert stored.documents[0].text == "We store your email. We sell it.\n\nWe also store your name."
    assert stored.answers == ("your email", "email", "your name")
    assert gold_texts(stored) == ["We store your email. We sell it.", "We also store your name."]
    assert (sold.id, gold_texts(sold)) == ("policyqa-b", ["We store your email. We sell it."])


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_missing_data_and_named(name: str, tmp_path: Path) -> None:
    write_tables(tmp_path, ("which year?", ["1950"]))
    write(tmp_path, FILES[name], '{"data": [')
    with pytest.raises(MissingData, match=rf"{FILES[name]}.*not JSON"):
        list(find_task(name).examples(tmp_path))
    (tmp_path / FILES[name]).write_bytes(b"not gzipped")
    with pytest.raises(MissingData, match=rf"{FILES[name]} cannot be read"):
        list(find_task(name).examples(tmp_path))


@pytest.mark.parametrize(
    ("name", "options"),
    [("tatqa", {}), ("wikitables", {}), ("policyqa", {}), ("policyqa", {"context": "policy"})],
)
def test_an_answer_stands_in_the_gold_and_the_gold_holds_an_answer(
    name: str, options: dict[str, str | int | float], shared_data: Path
) -> None:
    for example in read(name, shared_data, **options):
        passages = gold_texts(example)
        assert all(any(answer in passage for passage in passages) for answer in example.answers)
        assert all(any(answer in passage for answer in example.answers) for passage in passages)
