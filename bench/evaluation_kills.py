"""An evaluation killed with SIGKILL at random moments and gone on with: is every row that of one never killed?"""

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench.service import Service

KILLS = 5
SEED = 0
QUESTIONS = 40


def survive(service: Service, request: dict[str, Any], kills: int, seed: int) -> tuple[int, int, int]:
    """Do `request` once without and once with kills.

    Returns how many kills fell between the first and the last question, how many rows there are, and how many of
    them are the same but for seconds and for what was in memory.
    """
    generator = random.Random(seed)
    client = service.start(ready=True)
    whole = _rows(client, _finished(client, _start(client, request)))
    run_id = _start(client, request)
    met = 0
    for _ in range(kills):
        before = _state(client, run_id)["progress"]["done"]
        while (state := _state(client, run_id))["progress"]["done"] == before and state["finished_at"] is None:
            time.sleep(0.02)  # it has begun; then at any moment of the questions that follow
        time.sleep(generator.uniform(0, 1.5))
        done = _state(client, run_id)["progress"]["done"]
        service.kill()
        client.close()
        met += 0 < done < len(whole)
        client = service.start(ready=True)
    killed = _rows(client, _finished(client, run_id))
    client.close()
    service.kill()
    return met, len(killed), sum(one == other for one, other in zip(whole, killed, strict=True))


def _start(client: httpx.Client, request: dict[str, Any]) -> str:
    return str(client.post("/v1/evaluations", json=request).raise_for_status().json()["id"])


def _state(client: httpx.Client, run_id: str) -> dict[str, Any]:
    state: dict[str, Any] = client.get(f"/v1/evaluations/{run_id}").raise_for_status().json()
    return state


def _finished(client: httpx.Client, run_id: str) -> str:
    while (state := _state(client, run_id))["finished_at"] is None:
        time.sleep(0.1)
    assert state["state"] == "succeeded", state
    return run_id


def _rows(client: httpx.Client, run_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor = None
    while True:
        parameters = {"limit": 10} if cursor is None else {"limit": 10, "cursor": cursor}
        page = client.get(f"/v1/evaluations/{run_id}/scores", params=parameters).raise_for_status().json()
        rows += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    for row in rows:
        # A new process has no runs in memory: it takes longer, and misses what the old one had read.
        told = {name: value for name, value in row["values"].items() if not name.startswith(("seconds", "run_"))}
        row["values"] = told
    return rows


def main(data: Path) -> None:
    """Print how it went, on two pipelines."""
    print(f"\n{QUESTIONS} questions of SQuAD, {KILLS} kills, seed {SEED}\n")
    print("| pipeline | kills | of them between questions | rows | equal to those of a run never killed |")
    print("|---|---|---|---|---|")
    for pipeline in ("top_k", "full"):
        with tempfile.TemporaryDirectory() as folder:
            service = Service(Path(folder), environment={"REFDESK_SHARED_DATA": str(data.resolve())})
            request = {"task": "squad", "pipeline": pipeline, "limit": QUESTIONS}
            met, rows, equal = survive(service, request, KILLS, SEED)
        print(f"| {pipeline} | {KILLS} | {met} | {rows} | {equal} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
