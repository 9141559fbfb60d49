"""Parsing: text with an offset map from every format, and a clear reason for what cannot be read."""

import io
import tarfile
from pathlib import Path

import docx
import pytest

from refdesk.retriever.documents import OffsetMap
from refdesk.retriever.errors import DocumentError, DocumentTooLarge
from refdesk.retriever.parse import SUFFIXES, parse
from tests.retriever.bad_files import BAD_FILES, pdf, word


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_by_name_and_reason(case: str) -> None:
    name, content, reason = BAD_FILES[case]
    with pytest.raises(DocumentError, match=reason) as raised:
        parse(content, name)
    assert str(raised.value).startswith(f"{name}: ")


def test_a_file_over_the_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(DocumentTooLarge, match=r"big.txt: 1,001 bytes; at most 1,000"):
        parse(b"x" * 1001, "big.txt", max_bytes=1000)


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_text_is_the_source_itself(name: str) -> None:
    source = "# Café\r\n\r\nSecond line — naïve.\n\tThird."
    parsed = parse(source.encode(), name)
    assert parsed.text == source
    assert [source[start : start + 6] for start in parsed.starts[2:]] == ["Second", "\tThird"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252", "iso8859-1"])
def test_text_in_other_encodings_is_read_right(encoding: str) -> None:
    source = "Le café était fermé, à côté de l'hôtel où il a vécu; « déjà vu » dit-elle. " * 20
    assert parse(source.encode(encoding), "a.txt").text == source


def test_a_zero_byte_becomes_a_replacement_where_sql_could_not_store_it() -> None:
    assert "\x00" not in parse(b"<p>one&#0;two</p>", "a.html").text


def test_titles_are_found() -> None:
    assert parse(b"---\ntitle: 'Front'\n---\n# Head", "a.md").title == "Front"
    assert parse(b"text\n\n## The head ##\n", "a.md").title == "The head"
    assert parse(b"<title>The\n page</title><p>text here</p>", "a.html").title == "The page"
    assert parse(pdf("Hello"), "some/report.pdf").title == "report"
    assert parse(b"plain", "notes.txt").title == "notes"


def test_html_is_its_text_without_scripts_and_with_table_rows_kept_apart() -> None:
    page = (
        "<html><head><style>p{}</style></head><body><nav>Menu</nav><p>First paragraph.</p>"
        "<table><tr><th>Year</th><th>Sales</th></tr><tr><td>2022</td><td>5</td></tr></table>"
        "<script>alert(1)</script></body></html>"
    )
    text = parse(page.encode(), "a.html").text
    assert "First paragraph." in text
    assert "alert" not in text
    rows = [line for line in text.splitlines() if "2022" in line]
    assert len(rows) == 1
    assert rows[0].index("2022") < rows[0].index("|") < rows[0].index("5")


def test_html_in_a_declared_encoding_is_read_right() -> None:
    page = '<html><head><meta charset="windows-1251"></head><body><p>Привет, мир</p></body></html>'
    assert "Привет, мир" in parse(page.encode("windows-1251"), "a.html").text


def test_a_word_file_gives_paragraphs_and_tables_in_order() -> None:
    document = docx.Document()
    document.add_heading("The title", 0)
    document.add_paragraph("Before.")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ["a", "b", "c", "d"], strict=True):
        cell.text = text
    document.add_paragraph("After.")
    out = io.BytesIO()
    document.save(out)
    parsed = parse(out.getvalue(), "x.docx")
    assert parsed.text == "The title\n\nBefore.\n\na | b\nc | d\n\nAfter."
    assert parsed.title == "The title"
    assert OffsetMap(parsed.unit, list(parsed.starts)).locate(parsed.text.index("After")) == 4


def test_pages_of_a_pdf_are_found_by_offset(shared_data: Path) -> None:
    name = "2023 Q3 NVDA.pdf"
    parsed = parse((shared_data / "kg_rag_sec10q" / "docs" / name).read_bytes(), name)
    pages = OffsetMap(parsed.unit, list(parsed.starts))
    where = parsed.text.index("CONDENSED CONSOLIDATED STATEMENTS OF COMPREHENSIVE INCOME\n(In millions)")
    assert pages.locate(where) == 4
    assert len(parsed.starts) == 52


def test_real_html_pages_and_word_files_are_read(shared_data: Path) -> None:
    read = 0
    for archive in (
        "wikitablequestions_html/pages_and_tables.tar.gz",
        "format_samples/docling_sources_and_markdown.tar.gz",
    ):
        with tarfile.open(shared_data / archive) as tar:
            for member in tar:
                name = Path(member.name).name
                if not member.isfile() or Path(name).suffix not in SUFFIXES or name.startswith("."):
                    continue
                content = tar.extractfile(member)
                assert content is not None
                try:
                    parsed = parse(content.read(), name)
                except DocumentError:
                    continue
                assert parsed.starts[0] == 0
                assert parsed.starts[-1] <= len(parsed.text)
                parsed.text.encode()
                read += 1
    assert read > 150


def test_a_plain_word_file_is_no_bomb() -> None:
    assert parse(word("Hello. " * 50_000), "long.docx").text.startswith("Hello.")
