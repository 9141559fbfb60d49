"""CLAPNQ: long answers grounded in a Wikipedia passage; half of the questions have none there.

Rosenthal et al., "CLAPNQ: Cohesive Long-form Answers from Passages in Natural Questions", TACL 2025.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_jsonl
from refdesk.reader.answer_form import AnswerForm


@dataclass(frozen=True)
class ClapNQ(Task):
    """Questions with and without an answer in their passage, by turns."""

    summary: ClassVar[str] = "CLAPNQ: long grounded answers; half of the questions cannot be answered"
    source: ClassVar[str] = "Rosenthal et al., TACL 2025; 150 answerable and 150 unanswerable dev questions"
    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "f1", "abstention", "nll")
    max_new_tokens: ClassVar[int] = 200
    form: ClassVar[AnswerForm] = "long"

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        with_answer, without = (
            read_jsonl(data_file(data, "clapnq", f"clapnq_dev_{kind}.rows1-150.jsonl.gz"))
            for kind in ("answerable", "unanswerable")
        )
        for row in chain.from_iterable(zip(with_answer, without, strict=True)):
            passage = row["passages"][0]
            document = Document.of(passage["title"], passage["text"])
            # An annotator who skipped the question left an empty answer.
            outputs = [output for output in row["output"] if output["answer"].strip()]
            yield Example(
                id=f"clapnq-{row['id']}",
                question=row["input"].strip(),
                answers=tuple(dict.fromkeys(output["answer"].strip() for output in outputs)),
                documents=(document,),
                gold=_selected(document, outputs),
                answerable=bool(outputs),
            )


def _selected(document: Document, outputs: list[dict[str, Any]]) -> tuple[Span, ...]:
    """The sentences that any annotator chose, where they stand in the passage."""
    sentences = {sentence.strip() for output in outputs for sentence in output["selected_sentences"]}
    starts = {sentence: document.text.find(sentence) for sentence in sentences if sentence}
    found = {(start, start + len(sentence)) for sentence, start in starts.items() if start >= 0}
    return tuple(Span(document.id, start, end) for start, end in sorted(found))
