"""Every bad input of the REST interface: what was sent, the status, what the problem says."""

import tempfile
from pathlib import Path
from typing import Any

from bench.service import Service
from tests.retriever.bad_files import BAD_FILES

QUESTIONS: dict[str, dict[str, Any]] = {
    "empty question": {"question": ""},
    "k of 0": {"question": "x", "k": 0},
    "k of a million": {"question": "x", "k": 1_000_000},
    "unknown collection": {"question": "x", "collection": "nope"},
    "unknown option": {"question": "x", "colour": "red"},
}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), environment={"REFDESK_MAX_UPLOAD_MB": "1"})
        client = service.start()
        client.post("/v1/collections", json={"name": "c"})
        print("| input | status | detail |")
        print("|---|---|---|")
        files = {case: (bad.name, bad.content) for case, bad in BAD_FILES.items()}
        files["file over the limit"] = ("big.txt", b"words " * 200_000)
        for case, file in files.items():
            response = client.post("/v1/collections/c/documents", files=[("file", file)])
            print(f"| {case} | {response.status_code} | {response.json()['detail']} |")
        for case, body in QUESTIONS.items():
            response = client.post("/v1/answers", json={"collection": "c", **body})
            print(f"| {case} | {response.status_code} | {response.json()['detail']} |")
        left = client.get("/v1/collections/c").json()["documents"]
        print(
            f"\nstored afterwards: {left} documents; the server answers {client.get('/health/live').status_code}"
        )
        service.kill()


if __name__ == "__main__":
    main()
