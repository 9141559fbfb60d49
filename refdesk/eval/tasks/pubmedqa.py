"""PubMedQA: does the study say yes, no or maybe?

Jin et al., "PubMedQA: A Dataset for Biomedical Research Question Answering", EMNLP 2019.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_json


@dataclass(frozen=True)
class PubMedQA(Task):
    """An abstract without its conclusion, and the question that is its title."""

    summary: ClassVar[str] = "PubMedQA: yes, no or maybe, from an abstract without its conclusion"
    source: ClassVar[str] = "Jin et al., EMNLP 2019; the 500 of PQA-L that are not the official test half"
    metrics: ClassVar[tuple[str, ...]] = ("choice", "nll", "cited_gold", "gold_cited")
    max_new_tokens: ClassVar[int] = 32

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for pmid, row in read_json(data_file(data, "pubmedqa", "ori_pqal.train500.json.gz")).items():
            document = Document.of(f"PubMed abstract {pmid}", "\n\n".join(row["CONTEXTS"]))
            yield Example(
                id=f"pubmedqa-{pmid}",
                question=f"{row['QUESTION'].strip()} Answer yes, no or maybe.",
                answers=(row["final_decision"],),
                documents=(document,),
                gold=(Span(document.id, 0, len(document.text)),),
                relevance={document.id: 1},
                facts={"decision": row["final_decision"]},
            )
