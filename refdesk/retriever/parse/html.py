"""HTML: the text of the page, block by block, without its menus, scripts and styles."""

import re
from pathlib import PurePosixPath

import trafilatura
from lxml import etree, html

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse.document import MEDIA_TYPES, ParsedDocument, join_units
from refdesk.retriever.parse.text import looks_binary, marked_encoding

# A page whose main text is shorter than this share of all its text is read whole: tables and lists are
# easily taken for decoration.
_MAIN_SHARE = 0.5

_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_CHARSET_WITHIN_BYTES = 1024
# A page that says nothing, or one of these, is in Windows-1252 in truth; the HTML standard reads it so.
_WINDOWS_1252 = {"iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"}


def parse_html(content: bytes, name: str) -> ParsedDocument:
    """Raises UnreadableDocument: binary, or a page without text."""
    source = _decode(content)
    if looks_binary(source):
        raise UnreadableDocument(f"{name}: it is binary, not HTML (control characters all over)")
    tree = _tree(source)
    if tree is None:
        raise UnreadableDocument(f"{name}: there is no HTML in it")
    title = " ".join((tree.findtext(".//title") or "").split())
    etree.strip_elements(tree, "script", "style", "noscript", "template", "head", etree.Comment, with_tail=False)
    everything = _blocks(tree)
    main = trafilatura.extract(tree, include_comments=False, include_tables=True, favor_recall=True) or ""
    blocks = [line.strip() for line in main.splitlines() if any(map(str.isalnum, line))]
    lost_tables = tree.find(".//td") is not None and "|" not in main
    if lost_tables or sum(map(len, blocks)) < _MAIN_SHARE * sum(map(len, everything)):
        blocks = everything
    text, starts = join_units(blocks, "\n\n")
    if not text.strip():
        raise UnreadableDocument(f"{name}: there is no text in this HTML page")
    return ParsedDocument(text, title or PurePosixPath(name).stem, MEDIA_TYPES["html"], "block", starts or (0,))


def _tree(source: str) -> html.HtmlElement | None:
    try:
        return html.document_fromstring(source.encode(), parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, ValueError):
        return None


def _decode(content: bytes) -> str:
    """By the byte order mark, as UTF-8 where that fits, else by the declared charset, else as Windows-1252."""
    encoding = marked_encoding(content)
    if encoding is not None:
        return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        declared = _CHARSET.search(content, 0, _CHARSET_WITHIN_BYTES)
        label = declared[1].decode("ascii", "replace").lower() if declared else "cp1252"
    try:
        return content.decode("cp1252" if label in _WINDOWS_1252 else label, "replace")
    except (LookupError, UnicodeError):
        return content.decode("cp1252", "replace")


_BLOCKS = frozenset(
    """
    address article aside blockquote body br caption center dd details div dl dt fieldset figcaption figure
    footer form h1 h2 h3 h4 h5 h6 header hr legend li main nav ol option p pre section summary table tbody
    tfoot thead tr ul
    """.split()  # noqa: SIM905 - read as prose
)


def _blocks(tree: html.HtmlElement) -> list[str]:
    """The text of the page's blocks in order; cells of a table row are kept apart by bars."""
    blocks: list[list[str]] = [[]]

    def add(text: str | None) -> None:
        if text and text.strip():
            blocks[-1].append(" ".join(text.split()))

    for event, element in etree.iterwalk(tree, events=("start", "end")):
        tag = element.tag if isinstance(element.tag, str) else ""
        if tag in _BLOCKS:
            blocks.append([])
        elif event == "start" and tag in {"td", "th"} and blocks[-1]:
            blocks[-1].append("|")
        add(element.text if event == "start" else element.tail)
    return [" ".join(block) for block in blocks if any(part != "|" for part in block)]
