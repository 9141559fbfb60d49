"""PubMedQA: does the study say yes, no or maybe, or what does it conclude?

Jin et al., "PubMedQA: A Dataset for Biomedical Research Question Answering", EMNLP 2019.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_choice, data_file
from refdesk.eval.tasks.files import read_json


@dataclass(frozen=True)
class PubMedQA(Task):
    """An abstract without its conclusion, and the question that is its title. `answer`: `choice` of yes, no and
    maybe, or `long`, the conclusion."""

    answer: str = "choice"

    summary: ClassVar[str] = "PubMedQA: yes, no or maybe, from an abstract without its conclusion"
    source: ClassVar[str] = "Jin et al., EMNLP 2019; the 500 of PQA-L that are not the official test half"
    metrics: ClassVar[tuple[str, ...]] = ("choice", "nll", "cited_gold", "gold_cited")
    max_new_tokens: ClassVar[int] = 32

    def __post_init__(self) -> None:
        check_choice("pubmedqa", "answer", self.answer, ("choice", "long"))

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for pmid, row in read_json(data_file(data, "pubmedqa", "ori_pqal.train500.json.gz")).items():
            document = Document.of(f"PubMed abstract {pmid}", "\n\n".join(row["CONTEXTS"]))
            name, question, answer = f"pubmedqa-{pmid}-long", row["QUESTION"].strip(), row["LONG_ANSWER"].strip()
            if self.answer == "choice":
                name = f"pubmedqa-{pmid}"
                question, answer = f"{question} Answer yes, no or maybe.", row["final_decision"]
            yield Example(
                id=name,
                question=question,
                answers=(answer,),
                documents=(document,),
                gold=(Span(document.id, 0, len(document.text)),),
                relevance={document.id: 1},
                facts={"decision": row["final_decision"]},
            )
