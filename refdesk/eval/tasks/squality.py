"""SQuALITY: long answers about whole short stories, four references for each.

Wang et al., "SQuALITY: Building a Long-Document Summarization Dataset the Hard Way", EMNLP 2022.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_jsonl
from refdesk.reader.answer_form import AnswerForm

# What Project Gutenberg puts before some of the stories.
_CREDITS = re.compile(r"Produced by|Distributed Proofreading|\*\*\*")


@dataclass(frozen=True)
class Squality(Task):
    """The first question of each story asks for its plot."""

    summary: ClassVar[str] = "SQuALITY: long answers about whole stories, four references each"
    source: ClassVar[str] = "Wang et al., EMNLP 2022; dev split of v1.3"
    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "nll")
    max_new_tokens: ClassVar[int] = 300
    form: ClassVar[AnswerForm] = "long"

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for story in read_jsonl(data_file(data, "squality", "dev.v1-3.jsonl.gz")):
            document = Document.of(_title(story["document"]), story["document"].strip())
            for row in story["questions"]:
                references = [response["response_text"].strip() for response in row["responses"]]
                yield Example(
                    id=f"{story['metadata']['passage_id']}-{row['question_number']}",
                    question=row["question_text"].strip(),
                    answers=tuple(dict.fromkeys(references)),
                    documents=(document,),
                    facts={"number": row["question_number"]},
                )


def _title(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not _CREDITS.match(line)), "")
