"""Questions over SEC 10-Q filings: is the gold document retrieved, and do citations point at real pages."""

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
from refdesk.eval.example import Example
from refdesk.eval.statistics import interval
from refdesk.eval.tasks import find_task
from refdesk.reader.qa import AnswerOptions
from refdesk.retriever.collections import get_collection
from refdesk.retriever.documents import document_text, get_document
from refdesk.retriever.store import Search

K = 10
QUESTIONS = 10


def main(data: Path) -> None:
    """Print recall over all questions, then ten answers."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Settings(data=Path(folder)))
        desk.start("ingest")
        collection = desk.create_collection("sec")
        job_id = desk.take_in(collection, load(data)["20 SEC 10-Q PDFs"]).job_id
        while not get_job(desk.engine, job_id).finished:
            time.sleep(0.1)
        examples = list(find_task("sec10q").examples(data))
        _recall(desk, examples)
        _answers(desk, examples, data)
        desk.close()


def _recall(desk: Desk, examples: list[Example]) -> None:
    store = desk.open_store(get_collection(desk.engine, "sec"))
    print(f"\n{len(examples)} questions, k = {K}; the method sees the question; no seed: nothing is random\n")
    print("| search | a gold document among the 10 | share of the 10 from gold documents | 95 % interval |")
    print("|---|---|---|---|")
    searches: tuple[tuple[str, Search], ...] = (
        ("dense and lexical (default)", "hybrid"),
        ("dense alone", "dense"),
    )
    for name, search in searches:
        hit, share = [], []
        for example in examples:
            hits = store.retrieve(example.question, K, search=search)
            found = [one.source_id in example.relevance for one in hits]
            hit.append(float(any(found)))
            share.append(sum(found) / K)
        sure = interval(hit)
        print(f"| {name} | {sure.mean:.3f} | {sum(share) / len(share):.3f} | {sure.low:.3f} to {sure.high:.3f} |")


def _answers(desk: Desk, examples: list[Example], data: Path) -> None:
    """Ten questions spread over the file; a citation is right if its page of the PDF itself holds the quote."""
    collection = get_collection(desk.engine, "sec")
    print("\n| question | answer | cited | of gold documents | span exact | page right | seconds |")
    print("|---|---|---|---|---|---|---|")
    for example in examples[:: len(examples) // QUESTIONS][:QUESTIONS]:
        answer = desk.qa("sec").answer(example.question, AnswerOptions(max_new_tokens=64))
        gold = spans = pages = 0
        for citation in answer.citations:
            name = citation.document_id
            text = document_text(desk.engine, get_document(desk.engine, collection, name).id)
            gold += name in example.relevance
            spans += text[citation.start : citation.end] == citation.quote
            page = citation.page or 0
            pages += _squeeze(citation.quote) in _squeeze(_page_texts(data, name, page))
        count = len(answer.citations)
        print(
            f"| {example.question} | {' '.join(answer.text.split())[:160]} | {count} | {gold} | {spans}/{count}"
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
