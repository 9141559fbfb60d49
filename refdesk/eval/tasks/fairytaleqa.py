"""FairytaleQA: experts' questions about whole stories, with the sections that answer them.

Xu et al., "Fantastic Questions and Where to Find Them: FairytaleQA", ACL 2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_choice, data_file
from refdesk.eval.tasks.files import read_jsonl

_FILES = {"validation": "val.jsonl.gz", "train": "train.jsonl.gz"}
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class FairytaleQA(Task):
    """The document is the whole story; what is asked stands in one to three of its sections. `split`:
    `validation`, or `train`."""

    split: str = "validation"

    summary: ClassVar[str] = "FairytaleQA: questions about whole stories"
    source: ClassVar[str] = "Xu et al., ACL 2022; validation and train split"
    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "f1", "contains", "nll", "kept_gold")

    def __post_init__(self) -> None:
        check_choice("fairytaleqa", "split", self.split, tuple(_FILES))

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for story in read_jsonl(data_file(data, "fairytaleqa", _FILES[self.split])):
            texts = [section["text"] for section in story["sections"]]
            title = story["story"].replace("-", " ").capitalize()
            document, sections, start = Document.of(title, _BETWEEN.join(texts)), {}, 0
            for section, text in zip(story["sections"], texts, strict=True):
                sections[int(section["section"])] = Span(document.id, start, start + len(text))
                start += len(text) + len(_BETWEEN)
            for row in story["questions"]:
                # "4", "4,5" or "4, 5"
                numbers = sorted({int(number) for number in row["sections"].split(",")})
                yield Example(
                    id=f"{story['story']}-{row['question_id']}",
                    question=row["question"].strip(),
                    answers=tuple(dict.fromkeys(answer.strip() for answer in row["answers"])),
                    documents=(document,),
                    gold=tuple(sections[number] for number in numbers),
                    facts={name: row[name] for name in ("attribute", "local_or_sum", "ex_or_im")},
                )
