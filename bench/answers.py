"""Questions over SEC 10-Q filings: is the gold document retrieved, and do citations point at real pages."""

import csv
import fnmatch
import random
import re
import sys
import tempfile
import time
from pathlib import Path

import pypdfium2

from bench.ingest import load
from refdesk.app.build import Desk
from refdesk.app.jobs import get_job
from refdesk.app.settings import Settings
from refdesk.reader.qa import AnswerOptions
from refdesk.retriever.collections import get_collection
from refdesk.retriever.documents import document_text, get_document
from refdesk.retriever.store import Search

K = 10
QUESTIONS = 10
SEED = 0


def main(data: Path) -> None:
    """Print recall over all questions, then ten answers."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Settings(data=Path(folder)))
        desk.start("ingest")
        collection = desk.create_collection("sec")
        job_id = desk.take_in(collection, load(data)["20 SEC 10-Q PDFs"]).job_id
        while not get_job(desk.engine, job_id).finished:
            time.sleep(0.1)
        rows = _questions(data)
        _recall(desk, rows)
        _answers(desk, rows, data)
        desk.close()


def _questions(data: Path) -> list[tuple[str, list[str]]]:
    """Each question with the patterns of its gold documents' names."""
    with (data / "kg_rag_sec10q" / "qna_data.csv").open(encoding="utf-8-sig", newline="") as file:
        return [
            (row["Question"], [part.strip() for part in row["Source Docs"].split(",")])
            for row in csv.DictReader(file)
        ]


def _is_gold(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _recall(desk: Desk, rows: list[tuple[str, list[str]]]) -> None:
    store = desk.open_store(get_collection(desk.engine, "sec"))
    print(f"\n{len(rows)} questions, k = {K}; the method sees the question; no seed: nothing is random\n")
    print("| search | a gold document among the 10 | share of the 10 from gold documents | 95 % interval |")
    print("|---|---|---|---|")
    searches: tuple[tuple[str, Search], ...] = (
        ("dense and lexical (default)", "hybrid"),
        ("dense alone", "dense"),
    )
    for name, search in searches:
        hit, share = [], []
        for question, patterns in rows:
            found = [_is_gold(hit.source_id, patterns) for hit in store.retrieve(question, K, search=search)]
            hit.append(any(found))
            share.append(sum(found) / K)
        low, high = bootstrap([float(value) for value in hit])
        mean = sum(hit) / len(hit)
        print(f"| {name} | {mean:.3f} | {sum(share) / len(share):.3f} | {low:.3f} to {high:.3f} |")


def bootstrap(values: list[float], rounds: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the mean by resampling, seed 0."""
    generator = random.Random(SEED)
    means = sorted(sum(generator.choices(values, k=len(values))) / len(values) for _ in range(rounds))
    return means[int(0.025 * rounds)], means[int(0.975 * rounds)]


def _answers(desk: Desk, rows: list[tuple[str, list[str]]], data: Path) -> None:
    """Ten questions spread over the file; a citation is right if its page of the PDF itself holds the quote."""
    collection = get_collection(desk.engine, "sec")
    print("\n| question | answer | cited | of gold documents | span exact | page right | seconds |")
    print("|---|---|---|---|---|---|---|")
    for question, patterns in rows[:: len(rows) // QUESTIONS][:QUESTIONS]:
        answer = desk.qa("sec").answer(question, AnswerOptions(max_new_tokens=64))
        gold = spans = pages = 0
        for citation in answer.citations:
            name = citation.document_id
            text = document_text(desk.engine, get_document(desk.engine, collection, name).id)
            gold += _is_gold(name, patterns)
            spans += text[citation.start : citation.end] == citation.quote
            page = citation.page or 0
            pages += _squeeze(citation.quote) in _squeeze(_page_texts(data, name, page))
        count = len(answer.citations)
        print(
            f"| {question} | {' '.join(answer.text.split())[:160]} | {count} | {gold} | {spans}/{count}"
            f" | {pages}/{count} | {answer.usage.seconds['total']:.1f} |"
        )


def _page_texts(data: Path, name: str, page: int) -> str:
    """The text of a page and the one behind it, read anew from the PDF: a quote may run over the break."""
    pdf = pypdfium2.PdfDocument(data / "kg_rag_sec10q" / "docs" / name)
    numbers = [number for number in (page - 1, page) if 0 <= number < len(pdf)]
    return "".join(pdf[number].get_textpage().get_text_bounded() for number in numbers)


def _squeeze(text: str) -> str:
    # Hyphens at line ends are told apart by nobody but the parser.
    return re.sub("[\\s\ufffe\x02\xad-]", "", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
