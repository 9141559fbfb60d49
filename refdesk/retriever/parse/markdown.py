"""Markdown: the source as it is, so that offsets are those of the source."""

import re
from pathlib import PurePosixPath

from refdesk.retriever.parse.document import MEDIA_TYPES, ParsedDocument, line_starts
from refdesk.retriever.parse.text import decode

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)


def parse_markdown(content: bytes, name: str) -> ParsedDocument:
    """The title is the front matter's, else the first heading. Raises UnreadableDocument."""
    text = decode(content, name)
    front = _FRONT_MATTER.match(text)
    found = (_TITLE.search(front[1]) if front else None) or _HEADING.search(text)
    title = found[1] if found else PurePosixPath(name).stem
    return ParsedDocument(text, title, MEDIA_TYPES["md"], "line", line_starts(text))
