"""Word files: no text is lost, and no file takes long or fails in a way of its own."""

import random
import time
import zipfile
from io import BytesIO

import pytest

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse import parse
from tests.retriever.bad_files import word, zipped

_PLAIN = word("Hello there", "Second one")
with zipfile.ZipFile(BytesIO(_PLAIN)) as _archive:
    _MEMBERS = {name: _archive.read(name) for name in _archive.namelist()}
_HEAD = _MEMBERS["word/document.xml"].split(b"<w:body>")[0]


def with_body(xml: str) -> bytes:
    """A Word file of this body."""
    document = _HEAD + f"<w:body>{xml}</w:body></w:document>".encode()
    return zipped({**_MEMBERS, "word/document.xml": document})


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(text: str) -> str:
    return f"<w:p>{run(text)}</w:p>"


def cell(text: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{paragraph(text)}</w:tc>"


def text_of(xml: str) -> str:
    return parse(with_body(xml), "a.docx").text


def test_tracked_insertions_are_read_and_deletions_are_not() -> None:
    inserted = f'<w:ins w:id="1">{run("new ")}</w:ins>'
    deleted = '<w:del w:id="2"><w:r><w:delText>old </w:delText></w:r></w:del>'
    assert text_of(f"<w:p>{run('a ')}{inserted}{deleted}{run('text')}</w:p>") == "a new text"


def test_content_controls_are_read() -> None:
    control = f"<w:sdt><w:sdtContent>{paragraph('inside')}</w:sdtContent></w:sdt>"
    assert text_of(paragraph("before") + control + paragraph("after")) == "before\n\ninside\n\nafter"


def test_a_table_within_a_table_is_read() -> None:
    inner = f"<w:tbl><w:tr>{cell('inner')}</w:tr></w:tbl>"
    assert text_of(f"<w:tbl><w:tr><w:tc>{inner}{paragraph('outer')}</w:tc></w:tr></w:tbl>") == "inner outer"


def test_equal_neighbours_in_a_row_are_both_kept() -> None:
    assert text_of(f"<w:tbl><w:tr>{cell('5')}{cell('5')}{cell('7')}</w:tr></w:tbl>") == "5 | 5 | 7"


def test_tabs_and_breaks_are_kept_but_tab_stops_are_not() -> None:
    stops = '<w:pPr><w:tabs><w:tab w:val="left" w:pos="720"/></w:tabs></w:pPr>'
    assert text_of(f"<w:p>{stops}{run('a')}<w:r><w:tab/></w:r>{run('b')}<w:r><w:br/></w:r>{run('c')}</w:p>") == (
        "a\tb\nc"
    )


def test_long_tables_and_texts_are_read_at_once() -> None:
    merged = f"<w:tr>{cell('', '<w:vMerge/>')}{cell('value')}</w:tr>"
    wide = cell("wide", '<w:gridSpan w:val="100000000"/>')
    began = time.perf_counter()
    text = text_of(f"<w:tbl><w:tr>{wide}</w:tr>{merged * 5_000}</w:tbl>{paragraph('last') * 20_000}")
    assert text.count("value") == 5_000
    assert text.count("last") == 20_000
    assert time.perf_counter() - began < 5  # half a second; python-docx's own tables and styles take minutes


def test_entities_are_not_expanded_in_any_encoding() -> None:
    entities = '<!ENTITY a "haha">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    document = (_HEAD.decode() + "<w:body>" + paragraph("&i;") + "</w:body></w:document>").split("?>", 1)[1]
    laughs = f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE w [{entities}]>{document.strip()}'
    with pytest.raises(UnreadableDocument, match="damaged"):
        parse(zipped({**_MEMBERS, "word/document.xml": laughs.encode("utf-16")}), "a.docx")


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_is_read_or_refused_but_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        content = bytearray(_PLAIN)
        members = dict(_MEMBERS)
        name = chance.choice(sorted(members))
        member = bytearray(members[name])
        for damaged in (content, member):
            for _ in range(chance.choice((1, 5, 20))):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        members[name] = bytes(member)
        for damaged_file in (bytes(content), zipped(members)):
            try:
                parse(damaged_file, "a.docx")
            except UnreadableDocument as error:
                assert str(error).startswith("a.docx: ")
