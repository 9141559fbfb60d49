"""What can go wrong between a document and a passage.

RetrieverError
├── InvalidUpload        a request whose files cannot be told apart or are missing
├── DocumentError        one file is at fault
│   ├── UnsupportedFormat
│   ├── DocumentTooLarge
│   └── UnreadableDocument
├── InvalidCollection, CollectionExists, UnknownCollection, EmbedderMismatch
├── UnknownDocument
└── InvalidSearch
"""


class RetrieverError(Exception):
    """Base of all errors of this folder."""


class InvalidUpload(RetrieverError):
    """The files of a request cannot be taken as they are; `rejected` has each file's own error."""

    rejected: "list[tuple[str, RetrieverError]]" = []  # noqa: RUF012 - never changed in place


class DocumentError(RetrieverError):
    """One file is at fault; the message names it and the reason."""


class UnsupportedFormat(DocumentError):
    """No parser for files of this name."""


class DocumentTooLarge(DocumentError):
    """More bytes than a document may have."""


class UnreadableDocument(DocumentError):
    """Empty, encrypted, damaged, not what its name says, or without text."""


class InvalidCollection(RetrieverError):
    """A bad name, or sizes that the embedder cannot serve."""


class CollectionExists(RetrieverError):
    """The name is taken."""


class UnknownCollection(RetrieverError):
    """No collection of this name."""


class EmbedderMismatch(RetrieverError):
    """The collection was embedded by another model."""


class UnknownDocument(RetrieverError):
    """No document of this id or source id."""


class InvalidSearch(RetrieverError):
    """An empty question, or a number of results out of range."""
