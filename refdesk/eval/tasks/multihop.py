"""Questions that take two to four paragraphs to answer, among paragraphs that look alike.

Yang et al., "HotpotQA", EMNLP 2018; Ho et al., "2WikiMultihopQA", COLING 2020; Trivedi et al., "MuSiQue",
TACL 2022.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, data_file
from refdesk.eval.tasks.files import read_jsonl

_FOLDER = "multihop"


@dataclass(frozen=True)
class HotpotQA(Task):
    """Ten paragraphs, two of which are needed."""

    summary: ClassVar[str] = "HotpotQA: two of ten paragraphs are needed for the answer"
    source: ClassVar[str] = "Yang et al., EMNLP 2018, distractor setting; 100 train questions"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "em", "contains", "nll", "kept_gold", "cited_gold", "gold_cited")
    file: ClassVar[str] = "hotpotqa_train_100.jsonl.gz"

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for row in read_jsonl(data_file(data, _FOLDER, self.file)):
            needed = {title for title, _ in row["supporting_facts"]}
            # HotpotQA's sentences bring the space before them along, 2WikiMultihopQA's do not.
            paragraphs = [
                (Document.of(title, " ".join(sentence.strip() for sentence in sentences)), title in needed)
                for title, sentences in row["context"]
            ]
            yield _example(row["_id"], row["question"], [row["answer"]], paragraphs, {"type": row["type"]})


@dataclass(frozen=True)
class TwoWiki(HotpotQA):
    """Ten paragraphs, two or four of which are needed."""

    summary: ClassVar[str] = "2WikiMultihopQA: two or four of ten paragraphs are needed for the answer"
    source: ClassVar[str] = "Ho et al., COLING 2020; 76 dev questions"
    file: ClassVar[str] = "2wikimultihopqa_dev.given.jsonl.gz"


@dataclass(frozen=True)
class MuSiQue(Task):
    """Twenty paragraphs, two to four of which are needed."""

    summary: ClassVar[str] = "MuSiQue: two to four of twenty paragraphs are needed for the answer"
    source: ClassVar[str] = "Trivedi et al., TACL 2022, MuSiQue-Ans; 100 train questions"
    metrics: ClassVar[tuple[str, ...]] = HotpotQA.metrics

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for row in read_jsonl(data_file(data, _FOLDER, "musique_train_100.jsonl.gz")):
            paragraphs = [
                (Document.of(paragraph["title"], paragraph["paragraph_text"]), paragraph["is_supporting"])
                for paragraph in row["paragraphs"]
            ]
            hops = len(row["question_decomposition"])
            answers = [row["answer"], *row["answer_aliases"]]
            yield _example(row["id"], row["question"], answers, paragraphs, {"hops": hops})


def _example(
    name: str,
    question: str,
    answers: Iterable[str],
    paragraphs: Iterable[tuple[Document, bool]],
    facts: dict[str, str | int | float],
) -> Example:
    # Some paragraphs of 2WikiMultihopQA are given twice.
    needed = dict(paragraphs)
    gold = [document for document, is_needed in needed.items() if is_needed]
    return Example(
        id=name,
        question=question.strip(),
        answers=tuple(dict.fromkeys(answer.strip() for answer in answers)),
        documents=tuple(needed),
        gold=tuple(Span(document.id, 0, len(document.text)) for document in gold),
        relevance={document.id: 1 for document in gold},
        facts=facts,
    )
