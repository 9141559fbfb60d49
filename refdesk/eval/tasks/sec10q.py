"""SEC 10-Q: questions over the quarterly reports of five companies, as PDF files.

Docugami, KG-RAG-datasets, 2023-24; the answers were drafted by a language model and checked by people.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, DocumentFile, Example
from refdesk.eval.task import Task, data_file
from refdesk.reader.answer_form import AnswerForm

_FOLDER = "kg_rag_sec10q"
# A line of its own, or brackets within a sentence: (SOURCE: 2022 Q3 AAPL.pdf), (from "2022 Q3 AAPL.pdf").
_SOURCES = re.compile(r"^[ \t]*SOURCE\(S\):.*$|\s*\([^()]*\.pdf[^()]*\)", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n\s*\n\s*")


@dataclass(frozen=True)
class Sec10Q(Task):
    """All questions are asked of all twenty filings; nobody marked where in a filing the answer stands."""

    summary: ClassVar[str] = "KG-RAG SEC 10-Q: questions over twenty PDF filings"
    source: ClassVar[str] = "docugami/KG-RAG-datasets, sec-10-q, 2023-24; all 195 questions"
    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "f1", "nll", "recall_at_10", "cited_gold")
    max_new_tokens: ClassVar[int] = 96
    form: ClassVar[AnswerForm] = "long"

    def corpus(self, data: Path) -> Iterator[DocumentFile | Document]:
        """See Task."""
        for path in sorted(data_file(data, _FOLDER, "docs").glob("*.pdf")):
            yield DocumentFile(path.name, path)

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        questions = data_file(data, _FOLDER, "qna_data.csv")
        names = [document.id for document in self.corpus(data)]
        with questions.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                # Patterns such as *2023 Q3 AAPL*.
                patterns = [pattern.strip() for pattern in row["Source Docs"].split(",")]
                gold = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
                answer = _BLANK_LINES.sub("\n\n", _SOURCES.sub("", row["Answer"])).strip()
                yield Example(
                    id=f"sec10q-{number}",
                    question=row["Question"].strip(),
                    answers=(answer,),
                    relevance=dict.fromkeys(gold, 1),
                    facts={"type": row["Question Type"], "chunk": row["Source Chunk Type"]},
                )
