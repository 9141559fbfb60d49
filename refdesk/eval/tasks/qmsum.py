"""QMSum: summaries of what was said of something in a long meeting.

Zhong et al., "QMSum: A New Benchmark for Query-based Multi-domain Meeting Summarization", NAACL 2021.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_choice, data_file
from refdesk.eval.tasks.files import read_jsonl
from refdesk.reader.answer_form import AnswerForm

_KINDS = ("specific", "general")
_FILES = {"validation": "val.jsonl.gz", "train": "train.jsonl.gz"}


@dataclass(frozen=True)
class QMSum(Task):
    """`queries`: `specific`, which have spans of turns as evidence, `general`, of the whole meeting, or `all`.
    `split`: `validation`, or `train`."""

    queries: str = "specific"
    split: str = "validation"

    summary: ClassVar[str] = "QMSum: query-focused summaries of meeting transcripts"
    source: ClassVar[str] = "Zhong et al., NAACL 2021; validation and train split"
    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "nll")
    max_new_tokens: ClassVar[int] = 200
    form: ClassVar[AnswerForm] = "long"

    def __post_init__(self) -> None:
        check_choice("qmsum", "queries", self.queries, (*_KINDS, "all"))
        check_choice("qmsum", "split", self.split, tuple(_FILES))

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for meeting in read_jsonl(data_file(data, "qmsum", _FILES[self.split])):
            turns = [f"{turn['speaker']}: {turn['content']}" for turn in meeting["meeting_transcripts"]]
            document = Document.of(f"Meeting {meeting['meeting_id']}", "\n".join(turns))
            starts = list(accumulate((len(turn) + 1 for turn in turns), initial=0))
            for kind in _KINDS:
                if self.queries not in (kind, "all"):
                    continue
                for number, row in enumerate(meeting[f"{kind}_query_list"], start=1):
                    ranges = _merged(row.get("relevant_text_span", ()))
                    yield Example(
                        id=f"{meeting['meeting_id']}-{kind}-{number}",
                        question=row["query"].strip(),
                        answers=(row["answer"].strip(),),
                        documents=(document,),
                        gold=tuple(
                            Span(document.id, starts[first], starts[last] + len(turns[last]))
                            for first, last in ranges
                        ),
                        facts={"queries": kind},
                    )


def _merged(ranges: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """First and last turns as numbers, in order; ranges that touch or overlap as one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted((int(first), int(last)) for first, last in ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
