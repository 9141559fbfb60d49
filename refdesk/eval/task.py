"""What a benchmark is: examples out of a data folder, and the metrics that suit them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from refdesk.eval.errors import InvalidTaskOption, MissingData
from refdesk.eval.example import Document, DocumentFile, Example
from refdesk.reader.answer_form import AnswerForm


@dataclass(frozen=True)
class Task(ABC):
    """One benchmark. A subclass is a frozen dataclass whose fields are the task's options, all with defaults, and
    whose `__post_init__` raises `InvalidTaskOption` for values that it cannot use.

    `summary`: one line for people. `source`: the paper, and which part of the data is read. `metrics`: names of
    `refdesk.eval.metrics`, the main one first. `max_new_tokens`: the longest answer, in tokens of the reader.
    `form`: of the answers that are expected. `retrieval_only`: nothing is generated, only the ranking of documents
    is measured.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    max_new_tokens: ClassVar[int] = 48
    form: ClassVar[AnswerForm] = "short"
    retrieval_only: ClassVar[bool] = False

    @abstractmethod
    def examples(self, data: Path) -> Iterator[Example]:
        """All examples, in the order of the files, the same in every run.

        Raises:
            MissingData: a file is not there.
        """

    def corpus(self, data: Path) -> Iterator[Document | DocumentFile]:
        """The documents that all questions share; none where each question has its own."""
        return iter(())

    def options(self) -> dict[str, Any]:
        """The options and their values."""
        return {option.name: getattr(self, option.name) for option in fields(self)}


def data_file(data: Path, *parts: str) -> Path:
    """A file of the data folder. Raises MissingData, naming the file."""
    path = data.joinpath(*parts)
    if not path.exists():
        raise MissingData(f"no {'/'.join(parts)} in {data}; expected the benchmark data there")
    return path


def check_range(task: str, option: str, value: int | float, low: int | float, high: int | float) -> None:
    """Raises InvalidTaskOption for a number that is not within `low` to `high`."""
    if not low <= value <= high:
        raise InvalidTaskOption(f"{task}: {option} is {value}; expected {low} to {high}")


def check_choice(task: str, option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises InvalidTaskOption for a value that is none of the choices."""
    if value not in choices:
        raise InvalidTaskOption(f"{task}: {option} is {value!r}; expected one of {', '.join(choices)}")
