"""Parsing: bytes of a known format in, text with an offset map out. One file a format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

from refdesk.retriever.errors import DocumentError, DocumentTooLarge, UnreadableDocument, UnsupportedFormat
from refdesk.retriever.parse.document import ParsedDocument, storable
from refdesk.retriever.parse.docx import parse_docx
from refdesk.retriever.parse.html import parse_html
from refdesk.retriever.parse.markdown import parse_markdown
from refdesk.retriever.parse.pdf import parse_pdf
from refdesk.retriever.parse.text import parse_text

__all__ = ["SUFFIXES", "ParsedDocument", "parse"]

Parser = Callable[[bytes, str], ParsedDocument]

SUFFIXES: dict[str, Parser] = {
    ".txt": parse_text,
    ".text": parse_text,
    ".log": parse_text,
    ".md": parse_markdown,
    ".markdown": parse_markdown,
    ".html": parse_html,
    ".htm": parse_html,
    ".pdf": parse_pdf,
    ".docx": parse_docx,
}


def parse(content: bytes, name: str, *, max_bytes: int = 64 * 2**20) -> ParsedDocument:
    """Read a file; its name's suffix tells the format.

    Raises:
        UnsupportedFormat: no parser for this suffix.
        DocumentTooLarge: more than `max_bytes`.
        UnreadableDocument: empty, encrypted, damaged, not what its name says, or without text.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise UnsupportedFormat(
            f"{name}: no parser for {suffix or 'files without a suffix'}; known: {', '.join(sorted(SUFFIXES))}"
        )
    if len(content) > max_bytes:
        raise DocumentTooLarge(f"{name}: {len(content):,} bytes; at most {max_bytes:,} are taken in")
    if not content:
        raise UnreadableDocument(f"{name}: the file is empty (0 bytes)")
    try:
        parsed = SUFFIXES[suffix](content, name)
    except DocumentError:
        raise
    except Exception as error:  # libraries trip over damage wherever they meet it, with whatever error
        reason = f"{type(error).__name__}: {error}"
        raise UnreadableDocument(f"{name}: the file is damaged or encrypted ({reason})") from error
    if not parsed.text.strip():
        raise UnreadableDocument(f"{name}: there is no text in it")
    return replace(parsed, title=storable(parsed.title))
