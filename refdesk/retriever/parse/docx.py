"""DOCX: paragraphs and tables in the order of the document.

The text is read from the XML itself. python-docx's paragraphs leave out tracked insertions, content controls,
text boxes and formulas, and its table cells repeat a cell for each column that it claims to span.
"""

import io
from collections.abc import Iterator
from pathlib import PurePosixPath

import docx
from docx.document import Document
from lxml import etree

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse.archive import refuse_bombs
from refdesk.retriever.parse.document import MEDIA_TYPES, ParsedDocument, join_units, table_text

_OLE = b"\xd0\xcf\x11\xe0"  # old Word files, and encrypted new ones
_MAIN_PART = "word/document.xml"

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_PARAGRAPH, _TABLE, _ROW, _CELL = _W + "p", _W + "tbl", _W + "tr", _W + "tc"
_TEXT = (_W + "t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t")
_SIGNS = {_W + "tab": "\t", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-", _PARAGRAPH: "\n"}
# What a reader of the document does not see: deletions, where moved text was, and the copy of each drawing
# for old versions of Word. Tab stops are dropped lest they be taken for tabs.
_UNSEEN = (
    *(_W + "del", _W + "moveFrom", _W + "tabs"),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
)


def parse_docx(content: bytes, name: str) -> ParsedDocument:
    """Raises UnreadableDocument: encrypted, a zip bomb, or not a Word file; and over damage, whatever zipfile,
    python-docx and lxml raise."""
    if content.startswith(_OLE):
        raise UnreadableDocument(f"{name}: an encrypted or old Word file; save it as .docx without a password")
    refuse_bombs(content, name, expected=_MAIN_PART)
    document = docx.Document(io.BytesIO(content))
    body = document.element.body
    etree.strip_elements(body, *_UNSEEN, with_tail=False)
    blocks = [_block(block) for block in _nearest(body, _PARAGRAPH, _TABLE)]
    title = _title(document)
    text, starts = join_units(blocks, "\n\n")
    return ParsedDocument(
        text, title or PurePosixPath(name).stem, MEDIA_TYPES["docx"], "paragraph", starts or (0,)
    )


def _nearest(parent: etree._Element, *tags: str) -> Iterator[etree._Element]:
    """The descendants with these tags, in order, but none from within another; XML nests at most 256 deep."""
    for child in parent:
        if child.tag in tags:
            yield child
        else:
            yield from _nearest(child, *tags)


def _block(block: etree._Element) -> str:
    if block.tag == _PARAGRAPH:
        return _text(block)
    return table_text((_text(cell) for cell in _nearest(row, _CELL)) for row in _nearest(block, _ROW))


def _text(element: etree._Element) -> str:
    """All text within, a line for each paragraph: a cell or a text box may hold several."""
    nodes = element.iter(*_TEXT, *_SIGNS)
    return "".join(_SIGNS.get(node.tag) or node.text or "" for node in nodes).strip("\n")


def _title(document: Document) -> str:
    """The title among the properties, else the first title or heading of the text."""
    if title := (document.core_properties.title or "").strip():
        return title
    names = {style.style_id: style.name or "" for style in document.styles}
    for paragraph in document.element.body.iter(_PARAGRAPH):
        style = paragraph.find(f"{_W}pPr/{_W}pStyle")
        is_heading = style is not None and names.get(style.get(_W + "val"), "").startswith(("Title", "Heading"))
        if is_heading and (title := " ".join(_text(paragraph).split())):
            return title
    return ""
