"""Benchmarks small enough to read, in the files that the real ones come in."""

import gzip
import json
from pathlib import Path
from typing import Any

TOWNS = 12


def _write(path: Path, *rows: object, lines: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(row) for row in rows) if lines else json.dumps(rows[0])
    path.write_bytes(gzip.compress(text.encode()))


def paragraph(town: int, tower: int) -> str:
    """What is said of one tower: who built it and how high it is, but not who sold it."""
    return (
        f"The {tower}th tower of Town{town} was built by Builder{town}x{tower}. It is {10 * town + tower} metres"
        f" high, and people come from all over the country to see it. {lives_in(town)} lives there now, and the"
        f" market of Town{town} is still held in front of it. " + "The stones of it are grey. " * 20
    )


def lives_in(town: int) -> str:
    """The same in every other town."""
    return ("Nobody", "Hermit")[town % 2]


def asked_of(town: int, tower: int) -> list[dict[str, Any]]:
    """Two questions with an answer, and one without."""
    name = f"{town}-{tower}"
    return [
        {
            "id": f"built-{name}",
            "question": f"Who built the {tower}th tower of Town{town}?",
            "answers": [{"text": f"Builder{town}x{tower}"}, {"text": f"builder{town}x{tower}"}],
        },
        {
            "id": f"lives-{name}",
            "question": f"Who lives in the {tower}th tower of Town{town}?",
            "answers": [{"text": lives_in(town)}],
        },
        {
            "id": f"sold-{name}",
            "question": f"Who sold the {tower}th tower of Town{town}?",
            "answers": [],
            "is_impossible": True,
        },
    ]


def write_squad_v2(data: Path) -> None:
    """Articles of towns, each of 12 paragraphs; an article is longer than 5,000 characters."""
    articles = [
        {
            "title": f"Town{town}",
            "paragraphs": [
                {"context": paragraph(town, tower), "qas": asked_of(town, tower)} for tower in range(12)
            ],
        }
        for town in range(TOWNS)
    ]
    _write(data / "squad" / "dev-v2.0.given.json.gz", {"data": articles}, lines=False)


def write_hotpotqa(data: Path, answers: dict[int, str] | None = None) -> None:
    """Who built a tower is said in one paragraph, and where the builder was born in another."""
    rows = []
    for town in range(24):
        context = [
            [f"Builder{town}", [f"Builder{town} was born in Harbour{town}.", " There is no picture of it."]],
            [f"Tower {town}", [f"The tower {town} was built by Builder{town}.", " It has no roof."]],
        ]
        others = [
            [f"Other {town} {n}", [f"The tower {town} is one of {n} towers.", " There is no door."]]
            for n in range(8)
        ]
        answer = (answers or {}).get(town, f"Harbour{town}")
        rows.append(
            {
                "_id": f"hop-{town}",
                "question": f"Where was the builder of the tower {town} born?",
                "answer": answer,
                "type": "bridge",
                "supporting_facts": [[f"Builder{town}", 0], [f"Tower {town}", 0]],
                "context": [*others[:3], context[0], *others[3:], context[1]],
            }
        )
    _write(data / "multihop" / "hotpotqa_train_100.jsonl.gz", *rows)


def write_pubmedqa(data: Path, sentences: int = 15) -> None:
    """Abstracts of three sections of so many sentences, in each of which there is a "no"."""
    rows = {
        str(number): {
            "QUESTION": f"Does drug{number} help?",
            "CONTEXTS": [
                f"Of drug{number} {part} is said, and no more. " + "It was given to many patients. " * sentences
                for part in ("the aim", "the method", "the result")
            ],
            "LONG_ANSWER": f"In these patients drug{number} was found to be of some help. " * 5,
            "final_decision": ("yes", "no", "maybe")[number % 3],
        }
        for number in range(30)
    }
    _write(data / "pubmedqa" / "ori_pqal.train500.json.gz", rows, lines=False)


def write_nq(data: Path, *questions: str) -> None:
    """Questions that are evaluated and never trained on."""
    folder = data / "nq_lost_in_the_middle"
    rows = [
        {"question": text, "answers": ["x"], "ctxs": [{"title": f"T{n}", "text": f"Text {n}"}]}
        for n, text in enumerate(questions)
    ]
    _write(folder / "nq-open-20_total_documents_gold_at_0.rows301-.jsonl.gz", *rows)
    _write(folder / "nq-open-oracle.rows301-.jsonl.gz", *rows)


def write_all(data: Path, *nq: str) -> None:
    """Every one of them."""
    write_squad_v2(data)
    write_hotpotqa(data)
    write_pubmedqa(data)
    write_nq(data, *nq)
