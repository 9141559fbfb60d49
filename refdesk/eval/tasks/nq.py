"""Natural Questions with many documents, the gold one at a chosen position: lost in the middle.

Liu et al., "Lost in the Middle", TACL 2024 (arXiv 2307.03172); Kwiatkowski et al., TACL 2019.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_range, data_file
from refdesk.eval.tasks.files import read_jsonl

_FOLDER = "nq_lost_in_the_middle"


@dataclass(frozen=True)
class NaturalQuestions(Task):
    """`documents`: 1 to 20, the gold one and the retriever's best wrong ones in the order of their rank.
    `gold_at`: the position of the gold document, from 0."""

    documents: int = 20
    gold_at: int = 0

    summary: ClassVar[str] = "Natural Questions among distractors, the gold document at a chosen position"
    source: ClassVar[str] = "Liu et al. 2307.03172; rows 301-441 of nq-open-20_total_documents_gold_at_0"
    metrics: ClassVar[tuple[str, ...]] = ("contains", "em", "f1", "nll", "kept_gold", "cited_gold", "gold_cited")

    def __post_init__(self) -> None:
        check_range("nq", "documents", self.documents, 1, 20)
        check_range("nq", "gold_at", self.gold_at, 0, self.documents - 1)

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        file = data_file(data, _FOLDER, "nq-open-20_total_documents_gold_at_0.rows301-.jsonl.gz")
        for number, row in enumerate(read_jsonl(file), start=301):
            gold, *others = [Document.of(passage["title"], passage["text"]) for passage in row["ctxs"]]
            documents = others[: self.documents - 1]
            documents.insert(self.gold_at, gold)
            yield _example(number, row, gold, documents, {"gold_at": self.gold_at, "documents": self.documents})


@dataclass(frozen=True)
class NaturalQuestionsOracle(Task):
    """Every question with its gold document alone."""

    summary: ClassVar[str] = "Natural Questions with the gold document alone"
    source: ClassVar[str] = "Liu et al. 2307.03172; rows 301-2655 of nq-open-oracle"
    metrics: ClassVar[tuple[str, ...]] = NaturalQuestions.metrics

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        file = data_file(data, _FOLDER, "nq-open-oracle.rows301-.jsonl.gz")
        for number, row in enumerate(read_jsonl(file), start=301):
            gold = Document.of(row["ctxs"][0]["title"], row["ctxs"][0]["text"])
            yield _example(number, row, gold, [gold], {})


def _example(
    number: int, row: dict[str, list[str]], gold: Document, documents: list[Document], facts: dict[str, int]
) -> Example:
    return Example(
        id=f"nq-{number}",
        question=str(row["question"]),
        answers=tuple(row["answers"]),
        documents=tuple(documents),
        gold=(Span(gold.id, 0, len(gold.text)),),
        relevance={gold.id: 1},
        facts=facts,
    )
