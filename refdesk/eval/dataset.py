"""A data set of one's own: JSON lines of question, answers and documents, read strictly.

    {"question": "…", "answers": ["…"], "documents": [{"title": "…", "text": "…", "gold": true}], "id": "…"}

`id` is the line's number if it is left out. `documents` may be left out: the question is then asked of a
collection, and `relevant` may list the source ids of the documents there that hold the answer. `"unanswerable":
true` stands in place of `answers` where saying so is what counts as right. `guiding` may list questions that help
to answer it, for compression.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from refdesk.eval.errors import InvalidDataset
from refdesk.eval.example import Document, Example, Span
from refdesk.eval.task import Task

_LONGEST_ID = 200


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    title: str = ""
    gold: bool = False


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    question: str
    answers: list[str] = []
    documents: list[_Document | str] = []
    relevant: list[str] = []
    unanswerable: bool = False
    guiding: list[str] = []
    id: str | int | None = None


@dataclass(frozen=True)
class Dataset(Task):
    """The examples of a JSONL file as a task; metrics that do not apply to them are left empty."""

    rows: tuple[Example, ...] = ()

    summary: ClassVar[str] = "A data set of your own"
    source: ClassVar[str] = "JSON lines, uploaded"
    metrics: ClassVar[tuple[str, ...]] = (
        *("f1", "em", "contains", "rouge_l", "abstention", "nll"),
        *("kept_gold", "cited_gold", "gold_cited", "recall_at_10"),
    )

    def examples(self, data: Path) -> Iterator[Example]:
        """See Task; `data` is not read."""
        return iter(self.rows)

    def options(self) -> dict[str, Any]:
        """None."""
        return {}


def read_dataset(content: bytes, name: str) -> Dataset:
    """The data set of a JSONL file; all of it is checked before anything is done with it.

    Raises:
        InvalidDataset: the first line at fault, by its number, and what is wrong with it.
    """
    examples: list[Example] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            example = _example(msgspec.json.decode(line, type=_Row), number)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidDataset(f"{name}, line {number}: {error}") from error
        except InvalidDataset as error:
            raise InvalidDataset(f"{name}, line {number}: {error}") from None
        if example.id in lines:
            raise InvalidDataset(
                f"{name}, line {number}: id {example.id!r} stands in line {lines[example.id]} too"
            )
        lines[example.id] = number
        examples.append(example)
    if not examples:
        raise InvalidDataset(f"{name}: no question in it; expected JSON lines")
    if len({bool(example.documents) for example in examples}) > 1:
        without = next(example.id for example in examples if not example.documents)
        raise InvalidDataset(
            f"{name}, line {lines[without]}: no documents, but other lines have some; expected all or none"
        )
    return Dataset(tuple(examples))


def _example(row: _Row, number: int) -> Example:
    identity = str(number if row.id is None else row.id)
    if not 1 <= len(identity) <= _LONGEST_ID:
        raise InvalidDataset(f"id {identity[:40]!r}: expected 1 to {_LONGEST_ID} characters")
    if not row.question.strip():
        raise InvalidDataset(f"question {row.question!r}: expected at least one word")
    if bool(row.answers) == row.unanswerable:
        found = "both answers and unanswerable" if row.answers else "answers is empty"
        raise InvalidDataset(f'{found}; expected at least one answer, or "unanswerable": true')
    if not all(answer.strip() for answer in row.answers):
        raise InvalidDataset(f"answers {row.answers}: expected at least one word each")
    if row.documents and row.relevant:
        raise InvalidDataset(
            'both documents and relevant; expected "gold": true at the documents that hold the answer'
        )
    if not all(question.strip() for question in row.guiding):
        raise InvalidDataset(f"guiding {row.guiding}: expected at least one word each")
    given = [_Document(document) if isinstance(document, str) else document for document in row.documents]
    if not all(document.text.strip() for document in given):
        raise InvalidDataset("a document without text")
    documents = [Document.of(document.title, document.text) for document in given]
    if len({document.id for document in documents}) < len(documents):
        raise InvalidDataset("the same document stands twice in it")
    gold = [one for one, document in zip(documents, given, strict=True) if document.gold]
    return Example(
        id=identity,
        question=row.question.strip(),
        answers=tuple(dict.fromkeys(row.answers)),
        documents=tuple(documents),
        gold=tuple(Span(document.id, 0, len(document.text)) for document in gold),
        relevance=dict.fromkeys([document.id for document in gold] or row.relevant, 1),
        answerable=not row.unanswerable,
        guiding=tuple(row.guiding),
    )
