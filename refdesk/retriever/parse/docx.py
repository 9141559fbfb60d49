"""DOCX: paragraphs and tables in the order of the document."""

import io
import zipfile
from pathlib import PurePosixPath

import docx
from docx.document import Document
from docx.opc.exceptions import PackageNotFoundError
from docx.table import Table
from docx.text.paragraph import Paragraph
from lxml.etree import XMLSyntaxError

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse.document import MEDIA_TYPES, ParsedDocument, join_units

_OLE = b"\xd0\xcf\x11\xe0"  # old Word files, and encrypted new ones
_LARGEST_INFLATED = 512 * 2**20
_LARGEST_RATIO = 200  # text of a real document packs to a fiftieth at best
_RATIO_COUNTS_FROM = 16 * 2**20
_READ_BYTES = 2**20


def parse_docx(content: bytes, name: str) -> ParsedDocument:
    """Raises UnreadableDocument: encrypted, damaged, a zip bomb, or not a Word file."""
    if content.startswith(_OLE):
        raise UnreadableDocument(f"{name}: an encrypted or old Word file; save it as .docx without a password")
    _refuse_bombs(content, name)
    try:
        document = docx.Document(io.BytesIO(content))
        blocks = [_text(block) for block in document.iter_inner_content()]
    except (PackageNotFoundError, zipfile.BadZipFile, XMLSyntaxError, KeyError, ValueError) as error:
        raise UnreadableDocument(f"{name}: the Word file is damaged ({type(error).__name__}: {error})") from None
    text, starts = join_units(blocks, "\n\n")
    title = _title(document) or PurePosixPath(name).stem
    return ParsedDocument(text, title, MEDIA_TYPES["docx"], "paragraph", starts or (0,))


def _refuse_bombs(content: bytes, name: str) -> None:
    """Inflate everything once, in small steps and within bounds: a zip may lie about its sizes."""
    inflated = 0
    limit = _LARGEST_INFLATED
    if len(content) * _LARGEST_RATIO < limit:
        limit = max(len(content) * _LARGEST_RATIO, _RATIO_COUNTS_FROM)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if "word/document.xml" not in archive.namelist():
                raise UnreadableDocument(f"{name}: a zip, but not a Word file (no word/document.xml)")
            for member in archive.infolist():
                with archive.open(member) as file:
                    head = file.read(_READ_BYTES)
                    _refuse_entities(member.filename, head, name)
                    inflated += len(head)
                    while inflated <= limit and (piece := file.read(_READ_BYTES)):
                        inflated += len(piece)
                if inflated > limit:
                    raise UnreadableDocument(
                        f"{name}: a zip bomb: {len(content):,} bytes inflate to more than {limit:,}"
                    )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise UnreadableDocument(f"{name}: the Word file is damaged or encrypted ({error})") from None


def _refuse_entities(member: str, head: bytes, name: str) -> None:
    """Word never declares entities; whoever does wants them expanded."""
    if member.endswith((".xml", ".rels")) and b"<!DOCTYPE" in head:
        raise UnreadableDocument(f"{name}: {member} declares a document type, which Word files do not")


def _text(block: Paragraph | Table) -> str:
    if isinstance(block, Paragraph):
        return str(block.text)
    rows = []
    for row in block.rows:
        cells: list[str] = []
        for cell in row.cells:
            text = " ".join(cell.text.split())
            if not cells or cells[-1] != text:  # a merged cell comes once for each column
                cells.append(text)
        rows.append(" | ".join(cells))
    return "\n".join(rows)


def _title(document: Document) -> str:
    if document.core_properties.title:
        return str(document.core_properties.title).strip()
    for paragraph in document.paragraphs:
        style = (paragraph.style.name if paragraph.style else None) or ""
        if style.startswith(("Title", "Heading")) and paragraph.text.strip():
            return str(paragraph.text).strip()
    return ""
