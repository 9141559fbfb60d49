"""SciFact: find the abstracts that support or refute a claim.

Wadden et al., "Fact or Fiction: Verifying Scientific Claims", EMNLP 2020; Thakur et al., "BEIR", NeurIPS 2021.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, DocumentFile, Example
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_jsonl, read_text

_FOLDER = "scifact"


@dataclass(frozen=True)
class SciFact(Task):
    """A claim is the query; the abstracts that its author cited are relevant."""

    summary: ClassVar[str] = "SciFact: rank 5,183 abstracts by a claim"
    source: ClassVar[str] = "Wadden et al., EMNLP 2020, in BEIR's form; the 809 train claims"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg_at_10", "recall_at_10", "mrr_at_10")
    retrieval_only: ClassVar[bool] = True

    def corpus(self, data: Path) -> Iterator[Document | DocumentFile]:
        """See Task."""
        for row in read_jsonl(data_file(data, _FOLDER, "corpus.jsonl.gz")):
            yield Document(str(row["doc_id"]), row["title"], " ".join(row["abstract"]).strip())

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        claims = data_file(data, _FOLDER, "claims_train.jsonl.gz")
        relevance: dict[str, dict[str, int]] = {}
        _header, *lines = read_text(data_file(data, _FOLDER, "qrels_train.tsv.gz")).splitlines()
        for line in lines:
            claim, document, grade = line.split("\t")
            relevance.setdefault(claim, {})[document] = int(grade)
        for row in read_jsonl(claims):
            name = str(row["id"])
            if name in relevance:
                yield Example(f"scifact-{name}", row["claim"].strip(), (), relevance=relevance[name])
