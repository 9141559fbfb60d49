"""TAT-QA: questions about a table of a financial report and the paragraphs around it.

Zhu et al., "TAT-QA: A Question Answering Benchmark on a Hybrid of Tabular and Textual Content in Finance", ACL
2021.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_json
from refdesk.retriever.parse.document import table_text

_BETWEEN = "\n\n"


@dataclass(frozen=True)
class TatQA(Task):
    """The document is the table, as the service writes those of Word files, and then its paragraphs.

    Left out are questions for a calculation or a count, those whose answer is several spans, and the few whose one
    span stands nowhere in what it is said to come from (the annotator wrote it in other words)."""

    summary: ClassVar[str] = "TAT-QA: questions about a table and text of a financial report, without arithmetic"
    source: ClassVar[str] = "Zhu et al., ACL 2021; the 278 dev contexts, questions with one span for an answer"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "em", "contains", "nll", "kept_gold", "cited_gold", "gold_cited")

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        contexts = read_json(data_file(data, "tatqa", "tatqa_dataset_dev.json.gz"))
        for number, context in enumerate(contexts, start=1):
            paragraphs = sorted(context["paragraphs"], key=lambda paragraph: int(paragraph["order"]))
            # The table has no place in the order of the paragraphs, and number 0 here.
            texts = {"0": table_text(context["table"]["table"])}
            texts |= {str(paragraph["order"]): paragraph["text"] for paragraph in paragraphs}
            # The data do not say whose reports these are.
            document = Document.of(f"Financial report {number}", _BETWEEN.join(texts.values()))
            for row in context["questions"]:
                if row["answer_type"] not in ("span", "multi-span") or len(row["answer"]) != 1:
                    continue
                answer = row["answer"][0].strip()
                if answer not in document.text:
                    answer = " ".join(answer.split())  # as in the lines of the table
                gold = _holding(answer, texts, document, _sources(row))
                if gold:
                    yield Example(
                        id=f"tatqa-{row['uid']}",
                        question=row["question"].strip(),
                        answers=(answer,),
                        documents=(document,),
                        gold=gold,
                        facts={"answer_from": row["answer_from"], "comparison": int(row["req_comparison"])},
                    )


def _sources(row: dict[str, Any]) -> set[str]:
    """The numbers of the paragraphs that the answer is from, 0 for the table."""
    # Of a question about the table alone, the paragraphs are those that speak of the table.
    paragraphs = () if row["answer_from"] == "table" else map(str, row["rel_paragraphs"])
    return {*paragraphs, *(("0",) if row["answer_from"] != "text" else ())}


def _holding(answer: str, texts: dict[str, str], document: Document, sources: set[str]) -> tuple[Span, ...]:
    # Whole words and numbers: 168 is not said where $1,168 is.
    said = re.compile(rf"(?<!\w)(?<!\d[.,]){re.escape(answer)}(?!\w)(?![.,]\d)")
    gold, start = [], 0
    for number, text in texts.items():
        if number in sources and said.search(text):
            gold.append(Span(document.id, start, start + len(text)))
        start += len(text) + len(_BETWEEN)
    return tuple(gold)
