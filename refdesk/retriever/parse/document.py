"""What a parser makes of a file: one text, and where in it each unit of the source begins."""

from collections.abc import Iterable
from dataclasses import dataclass

MEDIA_TYPES = {
    "txt": "text/plain",
    "md": "text/markdown",
    "html": "text/html",
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}

# Characters that PostgreSQL cannot store: NUL and lone surrogates. One replacement each keeps offsets.
_UNSTORABLE = {0: "\ufffd", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}


@dataclass(frozen=True)
class ParsedDocument:
    """`text` is what citations point into; source unit i + 1 (`unit`: page, paragraph, block, line) begins at
    `text[starts[i]]`. `starts` begins with 0 and never decreases."""

    text: str
    title: str
    media_type: str
    unit: str
    starts: tuple[int, ...]


def join_units(units: list[str], separator: str) -> tuple[str, tuple[int, ...]]:
    """The units as one storable text, and where each begins."""
    starts, position = [], 0
    for unit in units:
        starts.append(position)
        position += len(unit) + len(separator)
    return storable(separator.join(units)), tuple(starts)


def table_text(rows: Iterable[Iterable[str]]) -> str:
    """A table as text: a line for each row, bars between its cells, within which there are single spaces."""
    return "\n".join(" | ".join(" ".join(cell.split()) for cell in row) for row in rows)


def line_starts(text: str) -> tuple[int, ...]:
    """Where each line of a text begins."""
    starts = [0]
    while (end := text.find("\n", starts[-1])) >= 0 and end + 1 < len(text):
        starts.append(end + 1)
    return tuple(starts)


def storable(text: str) -> str:
    """The text with what SQL cannot hold replaced, character for character."""
    return text.translate(_UNSTORABLE)
