"""Reading benchmarks, for the tests of what they hold."""

from functools import lru_cache
from pathlib import Path

from refdesk.eval.example import Document, DocumentFile, Example
from refdesk.eval.task import Task
from refdesk.eval.tasks import find_task


@lru_cache(maxsize=1)
def listed(task: Task, data: Path) -> list[Example]:
    """All examples of a task; those of the last one asked for are kept."""
    return list(task.examples(data))


def read(name: str, data: Path, **options: str | int | float) -> list[Example]:
    """All examples of the task of this name with these options."""
    return listed(find_task(name, options), data)


def corpus_of(task: Task, data: Path) -> dict[str, Document | DocumentFile]:
    """A task's shared documents by id, of which none stands twice."""
    documents = list(task.corpus(data))
    named = {document.id: document for document in documents}
    assert len(named) == len(documents)
    return named


def gold_texts(example: Example) -> list[str]:
    """What stands in the gold passages of an example."""
    documents = {document.id: document for document in example.documents}
    return [documents[span.document_id].text[span.start : span.end] for span in example.gold]
