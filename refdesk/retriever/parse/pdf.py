"""PDF: the text layer, page by page."""

import re
import threading
from pathlib import PurePosixPath

import pypdfium2
from pypdfium2 import PdfDocument, PdfiumError

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse.document import MEDIA_TYPES, ParsedDocument, join_units

_pdfium = threading.Lock()  # PDFium is not safe to use from two threads at once

# PDFium marks a hyphen at a line's end by U+FFFE or U+0002; the word goes on behind the break.
_HYPHENATED = re.compile("(\\w*)[\ufffe\x02]\r?\n?(\\w*)")
_WORD = re.compile(r"\w+")
_PAGE_BREAK = "\n\n"
# Writers may leave some bytes behind the end mark; a file cut short has none near its end.
_TAIL_BYTES = 4096


def parse_pdf(content: bytes, name: str) -> ParsedDocument:
    """Raises UnreadableDocument: not a PDF, truncated, encrypted, or without a text layer."""
    if b"%PDF-" not in content[:1024]:
        raise UnreadableDocument(f"{name}: it is not a PDF (no %PDF header)")
    if b"%%EOF" not in content[-_TAIL_BYTES:]:
        raise UnreadableDocument(f"{name}: the PDF is truncated (no %%EOF at its end)")
    with _pdfium:
        pages, title = _read(content, name)
    text, starts = join_units(_dehyphenated(pages), _PAGE_BREAK)
    if not text.strip():
        raise UnreadableDocument(
            f"{name}: no text in its {len(pages)} pages; a scan has to go through text recognition first"
        )
    # One word is a file name or a template's, not a title.
    stem = PurePosixPath(name).stem
    return ParsedDocument(text, title if " " in title else stem, MEDIA_TYPES["pdf"], "page", starts)


def _read(content: bytes, name: str) -> tuple[list[str], str]:
    try:
        pdf = PdfDocument(content)
    except PdfiumError as error:
        if pypdfium2.raw.FPDF_GetLastError() == pypdfium2.raw.FPDF_ERR_PASSWORD or "password" in str(error):
            raise UnreadableDocument(f"{name}: the PDF is encrypted; save it without a password") from None
        raise UnreadableDocument(f"{name}: the PDF is damaged ({error})") from None
    try:
        pages = []
        for number in range(len(pdf)):
            page = pdf[number]
            textpage = page.get_textpage()
            pages.append(_readable(textpage.get_text_bounded()))
            textpage.close()
            page.close()
        return pages, str(pdf.get_metadata_value("Title")).strip()
    except (PdfiumError, UnicodeDecodeError) as error:
        raise UnreadableDocument(f"{name}: the PDF is damaged ({error})") from None
    finally:
        pdf.close()


def _readable(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\xad", "").rstrip()


def _dehyphenated(pages: list[str]) -> list[str]:
    """Words broken over two lines made whole: without the hyphen ("infor-mation") where the document has that
    word elsewhere, else with it ("third-party", "13a-15"), as it stands on the page."""
    if not any(_HYPHENATED.search(page) for page in pages):
        return pages
    known = {word.lower() for page in pages for word in _WORD.findall(page)}

    def whole(match: re.Match[str]) -> str:
        head, tail = match.groups()
        return head + tail if (head + tail).lower() in known else f"{head}-{tail}"

    return [_HYPHENATED.sub(whole, page) for page in pages]
