"""COVID-QA: extractive questions about whole scientific papers.

Möller et al., "COVID-QA: A Question Answering Dataset for COVID-19", NLP-COVID workshop at ACL 2020.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_json


@dataclass(frozen=True)
class CovidQA(Task):
    """The document is the whole paper, the gold passage the paragraph where the answer first occurs."""

    summary: ClassVar[str] = "COVID-QA: extractive questions about whole papers"
    source: ClassVar[str] = "Möller et al., ACL 2020; 49 papers of the version of 2020-04-23"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "em", "contains", "nll", "kept_gold")

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for article in read_json(data_file(data, "covid_qa", "covidQA.given.json.gz"))["data"]:
            for paper in article["paragraphs"]:
                text = paper["context"]
                document = Document.of(text.strip().partition("\n")[0], text)
                for row in paper["qas"]:
                    answers = tuple(dict.fromkeys(answer["text"].strip() for answer in row["answers"]))
                    yield Example(
                        id=f"covidqa-{row['id']}",
                        question=row["question"].strip(),
                        answers=answers,
                        documents=(document,),
                        gold=_paragraph(document, answers[0]),
                    )


def _paragraph(document: Document, answer: str) -> tuple[Span, ...]:
    # The offsets of the data point elsewhere. Above the abstract stand identifiers and a date, where an answer
    # such as "9" would be found first.
    body = re.search(r"^(?:Abstract|Text): ", document.text, re.MULTILINE)
    whole_words = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
    found = whole_words.search(document.text, body.start() if body else 0)
    start = found.start() if found else document.text.find(answer)
    if start < 0:
        return ()
    end = document.text.find("\n", start + len(answer))
    line = document.text.rfind("\n", 0, start) + 1
    return (Span(document.id, line, end if end >= 0 else len(document.text)),)
