"""A question of a benchmark, with what is known of its answer."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from refdesk.eval.errors import MissingData


@dataclass(frozen=True, slots=True)
class Document:
    """A text that questions are asked about. `id` names one text only within its task."""

    id: str
    title: str
    text: str

    @classmethod
    def of(cls, title: str, text: str) -> "Document":
        """A document named by its content: the same text in two questions is the same document."""
        return cls(hashlib.sha256(f"{title}\0{text}".encode()).hexdigest()[:20], title, text)

    def content(self) -> bytes:
        """All that makes another document of it, but the id."""
        return f"{self.title}\0{self.text}".encode()


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """A document as a file of a format that the service takes in; it is parsed. `id` ends in its suffix."""

    id: str
    path: Path

    def content(self) -> bytes:
        """The file's. Raises MissingData, naming the file."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise MissingData(f"{self.path} cannot be read: {error}") from error


def content_digest(documents: Iterable[Document | DocumentFile]) -> str:
    """Of the ids and contents of these documents, in their order. Raises MissingData."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(hashlib.sha256(document.id.encode()).digest() + hashlib.sha256(document.content()).digest())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `text[start:end]` of a document."""

    document_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """One question.

    `id`: unique within the task and the same in every run. `answers`: what counts as right, any one of them, the
    canonical one first; empty if and only if the question is not `answerable` from its documents or is one of
    retrieval alone. `documents`: what it is asked about, in the order that a reader of everything sees; empty when
    the task has a corpus that all its questions share.

    `gold`: where the answer stands (a paragraph, a section, a passage: what a perfect retriever would give), in
    reading order; empty when nobody knows. `relevance`: grades of documents by id, more is better, for ranking
    metrics; ids that are missing are not relevant. `facts`: what to group scores by, such as `{"gold_at": 4}`.
    `guiding`: questions that help to answer it, for compression that asks for some.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    documents: tuple[Document, ...] = ()
    gold: tuple[Span, ...] = ()
    relevance: Mapping[str, int] = field(default_factory=dict)
    answerable: bool = True
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    guiding: tuple[str, ...] = ()


def documents_of(examples: Iterable[Example]) -> tuple[Document, ...]:
    """What these questions are asked about, each document once."""
    return tuple({document.id: document for example in examples for document in example.documents}.values())
