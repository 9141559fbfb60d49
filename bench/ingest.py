"""Ingesting 20 PDFs and a novel: seconds, memory, chunks, and what is not the embedder's; then the same again."""

import gzip
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from refdesk.app.build import Desk
from refdesk.app.intake import Upload
from refdesk.app.jobs import get_job
from refdesk.app.settings import Settings
from refdesk.retriever.collections import list_collections


def load(data: Path) -> dict[str, list[Upload]]:
    """The two sets of documents."""
    pdfs = sorted((data / "kg_rag_sec10q" / "docs").glob("*.pdf"))
    novel = gzip.decompress((data / "needle_haystacks" / "war_and_peace.txt.gz").read_bytes())
    return {
        "20 SEC 10-Q PDFs": [Upload(path.name, path.read_bytes()) for path in pdfs],
        "War and Peace": [Upload("war_and_peace.txt", novel)],
    }


def main(data: Path) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Settings(data=Path(folder)))
        embedder: Any = desk.embedder
        embedder.embed_query("warm")
        spent = _count_seconds(embedder)
        desk.start("ingest")
        print("| documents | run | MB | seconds | of it not the embedder | chunks | peak MiB |")
        print("|---|---|---|---|---|---|---|")
        for number, (name, uploads) in enumerate(load(data).items()):
            collection = desk.create_collection(f"set{number}")
            size = sum(len(upload.content) for upload in uploads) / 1e6
            for run in ("first", "again"):
                spent[0] = 0.0
                began = time.perf_counter()
                job_id = desk.take_in(collection, uploads).job_id
                while not (job := get_job(desk.engine, job_id)).finished:
                    time.sleep(0.02)
                seconds = time.perf_counter() - began
                assert job.state == "succeeded", job
                assert run == "first" or spent[0] == 0.0, "the same content was embedded again"
                chunks = {c.name: counts["chunks"] for c, counts in list_collections(desk.engine)}[collection.name]
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                rest = seconds - spent[0]
                print(
                    f"| {name} | {run} | {size:.1f} | {seconds:.2f} | {rest:.2f} s ({rest / seconds:.0%})"
                    f" | {chunks} | {peak:.0f} |"
                )
        desk.close()


def _count_seconds(embedder: Any) -> list[float]:
    """Seconds spent embedding, from now on."""
    spent, embed = [0.0], embedder.embed

    def timed(texts: Any) -> Any:
        began = time.perf_counter()
        try:
            return embed(texts)
        finally:
            spent[0] += time.perf_counter() - began

    embedder.embed = timed
    return spent


if __name__ == "__main__":
    main(Path(sys.argv[1]))
