"""WikiTableQuestions: questions about a table of a Wikipedia page.

Pasupat, Liang, "Compositional Semantic Parsing on Semi-Structured Tables", ACL 2015.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import ClassVar

from refdesk.eval.errors import MissingData
from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_jsonl, read_tar
from refdesk.retriever.parse.document import table_text

_FOLDER, _TABLES = "wikitablequestions_html", "pages_and_tables.tar.gz"
_NUMBER = re.compile(r"[\d.,]+")
# A year or a name is looked up even so: "which team has the largest number of points?"
_COUNTING = re.compile(r"\b(?:how many|how long|numbers? of|total|average|differences?|combined|streak)\b", re.I)


@dataclass(frozen=True)
class WikiTables(Task):
    """The document is one table, as the service writes those of Word files. All of it is gold: most questions
    compare its rows.

    Left out are questions with several answers, and those whose answer is computed: it is no cell of the table,
    or it is a number that is asked for by counting or adding up, which is that of some cell by chance."""

    summary: ClassVar[str] = "WikiTableQuestions: questions about a table whose answer is one of its cells"
    source: ClassVar[str] = "Pasupat, Liang, ACL 2015; 45 tables of the training part"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "em", "contains", "nll", "kept_gold")

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        archive = data_file(data, _FOLDER, _TABLES)
        files = read_tar(archive)
        for row in read_jsonl(data_file(data, _FOLDER, "questions.jsonl.gz")):
            if row["csv"] not in files:
                raise MissingData(f"no {row['csv']} in {archive}")
            # Quotes within a cell have a backslash, and a cell may have several lines.
            file = StringIO(files[row["csv"]], newline="")
            cells = list(csv.reader(file, escapechar="\\", doublequote=False))
            answers = [" ".join(answer.split()) for answer in row["answer"]]
            if len(answers) != 1 or not _is_looked_up(row["question"], answers[0], cells):
                continue
            document = Document.of(row["page_title"], table_text(cells))
            yield Example(
                id=f"wikitables-{row['id']}",
                question=row["question"].strip(),
                answers=(answers[0],),
                documents=(document,),
                gold=(Span(document.id, 0, len(document.text)),),
            )


def _is_looked_up(question: str, answer: str, cells: list[list[str]]) -> bool:
    if _NUMBER.fullmatch(answer) and _COUNTING.search(question):
        return False
    return any(answer == " ".join(cell.split()) for line in cells for cell in line)
