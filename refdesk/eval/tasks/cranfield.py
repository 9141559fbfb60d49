"""Cranfield: the oldest test collection, aeronautics.

Cleverdon, "The Cranfield tests on index language devices", Aslib Proceedings 1967.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, DocumentFile, Example
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_jsonl, read_text

_FOLDER = "cranfield"
# The file has no root element, so that it is not XML; within a document each field stands once.
_DOCUMENT = re.compile(
    r"<docno>(?P<id>.*?)</docno>.*?<title>(?P<title>.*?)</title>.*?<text>(?P<text>.*?)</text>", re.DOTALL
)


@dataclass(frozen=True)
class Cranfield(Task):
    """Queries of researchers, and what they judged relevant among 1,398 abstracts."""

    summary: ClassVar[str] = "Cranfield: rank 1,398 abstracts by a researcher's question"
    source: ClassVar[str] = "Cleverdon 1967; all 225 queries, two empty documents left out"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg_at_10", "recall_at_10", "mrr_at_10")
    retrieval_only: ClassVar[bool] = True

    def corpus(self, data: Path) -> Iterator[Document | DocumentFile]:
        """See Task."""
        yield from _documents(data)

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        queries = data_file(data, _FOLDER, "queries.jsonl.gz")
        judged = read_text(data_file(data, _FOLDER, "cranqrel.trec.txt.gz")).splitlines()
        known = {document.id for document in _documents(data)}
        relevance: dict[str, dict[str, int]] = {}
        for query, _, document, grade in (line.split() for line in judged):
            # Cleverdon's scale ran from 1, a complete answer, to 4, of minimum interest. This file has 1 for all
            # but one of those and 0 for "of no interest": more than relevant or not is not to be had from it.
            if int(grade) >= 1 and document in known:
                relevance.setdefault(query, {})[document] = 1
        for row in read_jsonl(queries):
            # `original_num`, which the XML of the queries has too, is not the number that is judged.
            name = row["qid"]
            yield Example(f"cranfield-{name}", row["text"].strip(), (), relevance=relevance.get(name, {}))


def _documents(data: Path) -> Iterator[Document]:
    for found in _DOCUMENT.finditer(read_text(data_file(data, _FOLDER, "cran.all.1400.xml.gz"))):
        title, text = found["title"].strip(), found["text"].strip()
        # The text says the title again.
        text = text.removeprefix(title).strip() or title
        if text:
            yield Document(found["id"].strip(), " ".join(title.split()), text)
