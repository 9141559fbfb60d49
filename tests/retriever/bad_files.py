"""Every file that must be refused, made here: name, bytes, and what the reason must say."""

import io
import zipfile
import zlib
from typing import NamedTuple

import docx


class BadFile(NamedTuple):
    """`reason` must stand in the error that refuses the file."""

    name: str
    content: bytes
    reason: str


def pdf(text: str, *, encrypted: bool = False) -> bytes:
    """A one-page PDF with a text layer, written by hand."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        # RC4 with keys that fit no password
        b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"41" * 32, b"42" * 32),
    ]
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    xref = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    for offset in offsets:
        out.write(b"%010d 00000 n \n" % offset)
    secret = b" /Encrypt 6 0 R /ID [<00> <00>]" if encrypted else b""
    out.write(b"trailer\n<< /Size %d /Root 1 0 R%s >>\n" % (len(objects) + 1, secret))
    out.write(b"startxref\n%d\n%%%%EOF\n" % xref)
    return out.getvalue()


def word(*paragraphs: str) -> bytes:
    """A Word file."""
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _harmed(content: bytes, sound: bytes, harm: bytes) -> bytes:
    """With every `sound` replaced by `harm`, which is as long."""
    assert sound in content
    return content.replace(sound, harm)


_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + zlib.compress(bytes(range(256)) * 20)
_WORD = word("Hello")
_MAIN = "word/document.xml"
_LAUGHS = b'<?xml version="1.0"?><!DOCTYPE w [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><w>&b;</w>'

BAD_FILES = {
    "encrypted PDF": BadFile("secret.pdf", pdf("Hello", encrypted=True), "encrypted"),
    "truncated PDF": BadFile("half.pdf", pdf("Hello " * 200)[:900], "truncated"),
    "zero-byte PDF": BadFile("zero.pdf", b"", "empty"),
    "PDF without text": BadFile("scan.pdf", pdf(""), "no text"),
    "text named PDF": BadFile("text.pdf", b"just text", "not a PDF"),
    "binary named txt": BadFile("picture.txt", _PNG, "binary"),
    "zero-byte txt": BadFile("zero.txt", b"", "empty"),
    "white space only": BadFile("blank.md", b" \n\t\n", "no text"),
    "wrong encoding": BadFile("wrong.txt", b"\xef\xbb\xbfcaf\xe9 and more", "wrong encoding"),
    "zip bomb named DOCX": BadFile(
        "bomb.docx",
        zipped({"word/document.xml": b"<w>" + b" " * 40_000_000, "[Content_Types].xml": b"<x/>"}),
        "zip bomb",
    ),
    "entities in DOCX": BadFile("laughs.docx", zipped({"word/document.xml": _LAUGHS}), "document type"),
    "zip named DOCX": BadFile("photos.docx", zipped({"a.jpg": b"x"}), "not a Word file"),
    "damaged DOCX": BadFile("damaged.docx", _WORD[:1500], "damaged"),
    "DOCX whose directory is far behind its end": BadFile(
        "negative.docx", _WORD[:-6] + b"\xff\xff\xff\x7f" + _WORD[-2:], "damaged"
    ),
    "DOCX whose member has a name in no encoding": BadFile(
        "names.docx", _harmed(zipped({_MAIN: b"<w/>", "é": b""}), "é".encode(), b"\xff\xff"), "damaged"
    ),
    "DOCX packed by LZMA, damaged": BadFile(
        "lzma.docx", _harmed(zipped({_MAIN: b"x" * 99}, zipfile.ZIP_LZMA), b"\x5d\x00\x00", b"\xff" * 3), "damaged"
    ),
    "old Word file": BadFile("old.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "encrypted or old"),
    "HTML without text": BadFile("empty.html", b"<html><body><script>x()</script></body></html>", "no text"),
    "unknown format": BadFile("table.xlsx", b"PK", "no parser"),
    "no suffix": BadFile("README", b"text", "no parser"),
}
