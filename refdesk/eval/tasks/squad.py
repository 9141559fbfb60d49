"""SQuAD v1.1 and v2.0, short (the paragraph) or long (the whole article).

Rajpurkar et al., EMNLP 2016; Rajpurkar, Jia, Liang, "Know What You Don't Know", ACL 2018.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_choice, data_file
from refdesk.eval.tasks.files import read_json

_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Squad(Task):
    """`context`: `paragraph`, the one that the question was written for, or `article`, all paragraphs of its
    article as one document. `split`: `dev`, or `train`."""

    context: str = "paragraph"
    split: str = "dev"

    summary: ClassVar[str] = "SQuAD v1.1: extractive questions on a paragraph or a whole article"
    source: ClassVar[str] = "Rajpurkar et al., EMNLP 2016; 20 of the 48 dev articles, 44 of the train articles"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "em", "contains", "nll", "kept_gold", "cited_gold", "gold_cited")
    files: ClassVar[dict[str, str]] = {"dev": "dev-v1.1.given.json.gz", "train": "train-v1.1.44articles.json.gz"}

    def __post_init__(self) -> None:
        check_choice("squad", "context", self.context, ("paragraph", "article"))
        check_choice("squad", "split", self.split, tuple(self.files))

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for article in read_json(data_file(data, "squad", self.files[self.split]))["data"]:
            title = article["title"].replace("_", " ")
            texts = [paragraph["context"] for paragraph in article["paragraphs"]]
            whole, start = Document(article["title"], title, _BETWEEN.join(texts)), 0
            for paragraph, text in zip(article["paragraphs"], texts, strict=True):
                if self.context == "article":
                    document, gold = whole, Span(whole.id, start, start + len(text))
                else:
                    document = Document.of(title, text)
                    gold = Span(document.id, 0, len(text))
                start += len(text) + len(_BETWEEN)
                for row in paragraph["qas"]:
                    answers = (
                        () if row.get("is_impossible") else tuple(answer["text"] for answer in row["answers"])
                    )
                    yield Example(
                        id=str(row["id"]),
                        question=row["question"].strip(),
                        answers=tuple(dict.fromkeys(answers)),
                        documents=(document,),
                        gold=(gold,),
                        answerable=bool(answers),
                    )


@dataclass(frozen=True)
class SquadV2(Squad):
    """Half of the questions cannot be answered from the text, and saying so is what counts as right there."""

    summary: ClassVar[str] = "SQuAD v2.0: half of the questions have no answer in the text"
    source: ClassVar[str] = "Rajpurkar, Jia, Liang, ACL 2018; 11 of the 35 dev articles"
    metrics: ClassVar[tuple[str, ...]] = (
        *("f1", "em", "abstention", "abstention_precision", "abstention_recall"),
        *("nll", "kept_gold"),
    )
    files: ClassVar[dict[str, str]] = {"dev": "dev-v2.0.given.json.gz"}
