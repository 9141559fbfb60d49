"""PolicyQA: what users ask of a website's privacy policy, in SQuAD's layout.

Ahmad et al., "PolicyQA: A Reading Comprehension Dataset for Privacy Policies", Findings of EMNLP 2020.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task, check_choice, data_file
from refdesk.eval.tasks.files import read_json

_BETWEEN = "\n\n"


@dataclass(frozen=True)
class PolicyQA(Task):
    """`context`: `paragraph`, the one that the question was written for, or `policy`, all paragraphs of the policy
    as one document. The same is asked of many paragraphs of a policy; of the whole it is asked once, and what any
    of them answers is right."""

    context: str = "paragraph"

    summary: ClassVar[str] = "PolicyQA: extractive questions on a paragraph or the whole of a privacy policy"
    source: ClassVar[str] = "Ahmad et al., Findings of EMNLP 2020; the 20 dev policies"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "em", "contains", "nll", "kept_gold", "cited_gold", "gold_cited")

    def __post_init__(self) -> None:
        check_choice("policyqa", "context", self.context, ("paragraph", "policy"))

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task."""
        for policy in read_json(data_file(data, "policyqa", "dev.json.gz"))["data"]:
            if self.context == "policy":
                yield from _once(_of_policy(policy))
            else:
                yield from _of_paragraphs(policy)


def _of_paragraphs(policy: dict[str, Any]) -> Iterator[Example]:
    for paragraph in policy["paragraphs"]:
        document = Document.of(policy["title"], paragraph["context"])
        yield from _asked(paragraph, document, Span(document.id, 0, len(document.text)))


def _of_policy(policy: dict[str, Any]) -> Iterator[Example]:
    texts = [paragraph["context"] for paragraph in policy["paragraphs"]]
    document, start = Document.of(policy["title"], _BETWEEN.join(texts)), 0
    for paragraph, text in zip(policy["paragraphs"], texts, strict=True):
        yield from _asked(paragraph, document, Span(document.id, start, start + len(text)))
        start += len(text) + len(_BETWEEN)


def _asked(paragraph: dict[str, Any], document: Document, gold: Span) -> Iterator[Example]:
    for row in paragraph["qas"]:
        yield Example(
            id=f"policyqa-{row['id']}",
            question=row["question"].strip(),
            answers=tuple(dict.fromkeys(answer["text"].strip() for answer in row["answers"])),
            documents=(document,),
            gold=(gold,),
        )


def _once(examples: Iterable[Example]) -> Iterator[Example]:
    """Each question once, with the answers and the gold of all examples that ask it."""
    same: dict[str, list[Example]] = {}
    for example in examples:
        same.setdefault(example.question, []).append(example)
    for first, *others in same.values():
        answers = chain(first.answers, *(other.answers for other in others))
        gold = chain(first.gold, *(other.gold for other in others))
        yield replace(first, answers=tuple(dict.fromkeys(answers)), gold=tuple(dict.fromkeys(gold)))
