"""PDF files: words whole, and a file cut short refused wherever the cut."""

import threading
from pathlib import Path

import pytest

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse import parse
from tests.retriever.bad_files import pdf


def test_hyphens_at_line_ends_stay_unless_the_document_has_the_word_without() -> None:
    lines = ") Tj 0 -14 Td (".join(["All information by the third-", "party, and other infor-", "mation too."])
    assert parse(pdf(lines), "a.pdf").text == "All information by the third-party, and other information too."


def test_real_hyphens_at_line_ends_stay(shared_data: Path) -> None:
    name = "2023 Q3 NVDA.pdf"
    text = parse((shared_data / "kg_rag_sec10q" / "docs" / name).read_bytes(), name).text
    assert "third-party" in text
    assert "thirdparty" not in text
    assert "13a15" not in text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_real_file_cut_short_is_refused(shared_data: Path, share: float) -> None:
    for path in sorted((shared_data / "kg_rag_sec10q" / "docs").glob("*.pdf")):
        content = path.read_bytes()
        with pytest.raises(UnreadableDocument, match="truncated"):
            parse(content[: int(len(content) * share)], path.name)


def test_threads_may_read_at_once() -> None:
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(parse(pdf("Hello world"), "a.pdf").text)) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["Hello world"] * 16
