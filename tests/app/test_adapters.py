"""Adapters over the REST interface and the command line of the real service, with the real models."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.service import Service
from tests.app.test_cli import data, refdesk
from tests.eval.conftest import jsonl

pytestmark = pytest.mark.models

__all__ = ["data"]

TOWNS = (
    "Harrow",
    "Selby",
    "Wexham",
    "Orford",
    "Tarn",
    "Ludlow",
    "Marsh",
    "Penrith",
    "Kelso",
    "Durrow",
    "Ashby",
    "Corse",
)
TOGETHER = {"distractors": [0, 1, 2], "most_exercises": 4}
SHORT = {"rank": 4, "batch": 8, "epochs": 4, "learning_rate": 0.002, "validate_every": 2}


def questions() -> bytes:
    """Of each town two, with the passage that answers them."""
    rows = []
    for number, town in enumerate(TOWNS):
        text = f"The {town} Tower was finished in {1811 + 7 * number}. It was designed by {town} Grey the elder."
        document = {"title": f"{town} Tower", "text": text, "gold": True}
        rows.append(
            {
                "question": f"When was the {town} Tower finished?",
                "answers": [str(1811 + 7 * number)],
                "documents": [document],
            }
        )
        rows.append(
            {"question": f"Who designed the {town} Tower?", "answers": [f"{town} Grey"], "documents": [document]}
        )
    return jsonl(*rows)


def trained(client: httpx.Client, name: str, seconds: float = 240) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        adapter: dict[str, Any] = client.get(f"/v1/adapters/{name}").raise_for_status().json()
        if adapter["state"] in ("succeeded", "failed", "cancelled"):
            return adapter
        time.sleep(0.2)
    raise AssertionError(f"adapter {name} is not trained after {seconds} s: {adapter}")


def ask(client: httpx.Client, question: str, **options: Any) -> dict[str, Any]:
    response = client.post("/v1/answers", json={"question": question, "max_new_tokens": 12, **options})
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("urn:refdesk:problem:")


@pytest.fixture(scope="module")
def tower(client: httpx.Client) -> dict[str, Any]:
    """An adapter trained on questions of one's own, and a collection to ask."""
    client.post("/v1/collections", json={"name": "towers"}).raise_for_status()
    files = [("file", (f"{town}.txt", f"The {town} Tower was finished in 1900.".encode())) for town in TOWNS[:3]]
    job = client.post("/v1/collections/towers/documents", files=files).raise_for_status().json()["job"]
    while client.get(f"/v1/jobs/{job['id']}").json()["state"] in ("queued", "running"):
        time.sleep(0.1)
    dataset = client.post("/v1/datasets", files=[("file", ("towers.jsonl", questions()))]).json()["id"]
    asked = {"name": "tower", "dataset": dataset, "data": TOGETHER, "training": SHORT}
    response = client.post("/v1/adapters", json=asked)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == "/v1/adapters/tower"
    assert client.get(f"/v1/jobs/{response.json()['job']}").json()["kind"] == "craft"
    return trained(client, "tower")


def test_an_adapter_is_trained_on_questions_of_ones_own(client: httpx.Client, tower: dict[str, Any]) -> None:
    assert (tower["ready"], tower["state"], tower["error"]) == (True, "succeeded", None)
    card = tower["card"]
    assert card["result"]["loss"]["all"] < card["result"]["loss_before"]["all"]
    assert card["data"]["training"]["exercises"] > 8
    assert card["recipe"]["rank"] == 4
    assert card["base_fingerprint"]
    names = [entry["name"] for entry in client.get("/v1/adapters").json()["items"]]
    assert "tower" in names


def test_an_adapter_is_chosen_by_the_question_or_by_the_collection(
    client: httpx.Client, tower: dict[str, Any]
) -> None:
    asked = "When was the Selby Tower finished?"
    own = ask(client, asked, collection="towers", adapter="tower")
    bare = ask(client, asked, collection="towers", adapter="none")
    assert (own["usage"]["adapter"], bare["usage"]["adapter"]) == ("tower", "none")
    assert own["answer"] != bare["answer"]
    changed = client.patch("/v1/collections/towers", json={"adapter": "tower"}).raise_for_status().json()
    assert changed["adapter"] == "tower"
    again = ask(client, asked, collection="towers")
    assert (again["answer"], again["usage"]["adapter"]) == (own["answer"], "tower")
    assert ask(client, asked, collection="towers", adapter="none")["answer"] == bare["answer"]
    assert problem(client.delete("/v1/adapters/tower")) == (409, "adapter-busy")
    client.patch("/v1/collections/towers", json={"adapter": None}).raise_for_status()
    assert client.get("/v1/collections/towers").json()["adapter"] is None


def test_runs_are_not_shared_between_adapters(client: httpx.Client, tower: dict[str, Any]) -> None:
    asked = {"question": "When was the Wexham Tower finished?", "collection": "towers", "reading": "apart"}
    ask(client, **asked, adapter="tower")
    assert ask(client, **asked, adapter="tower")["usage"]["run_misses"] == 0
    assert ask(client, **asked, adapter="none")["usage"]["run_misses"] > 0


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"name": "x"}, (422, "invalid-recipe")),
        ({"name": "x", "collection": "nowhere"}, (404, "unknown-collection")),
        ({"name": "x", "dataset": "nowhere"}, (404, "unknown-dataset")),
        ({"name": "Bad Name", "collection": "towers"}, (422, "invalid-recipe")),
        ({"name": "none", "collection": "towers"}, (422, "invalid-recipe")),
        ({"name": "auto", "collection": "towers"}, (422, "invalid-recipe")),
        ({"name": "craft", "collection": "towers"}, (409, "adapter-exists")),
        ({"name": "x", "collection": "towers", "training": {"rank": "many"}}, (422, "invalid-recipe")),
        ({"name": "tower", "collection": "towers"}, (409, "adapter-exists")),
        ({"name": "x", "collection": "towers", "training": {"rank": 0}}, (422, "invalid-recipe")),
        ({"name": "x", "collection": "towers", "training": {"colour": 1}}, (422, "invalid-recipe")),
        ({"name": "x", "collection": "towers", "data": {"distractors": [0, -1]}}, (422, "invalid-recipe")),
        ({"name": "x", "collection": "towers", "questions": 1}, (422, "invalid-recipe")),
        ({"name": "x", "collection": "towers", "colour": 1}, (400, "invalid-request")),
    ],
)
def test_a_training_that_cannot_be_done_is_refused_at_once(
    client: httpx.Client, tower: dict[str, Any], wanted: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert problem(client.post("/v1/adapters", json=wanted)) == expected
    assert [entry["name"] for entry in client.get("/v1/adapters").json()["items"] if entry["name"] == "x"] == []


def test_unknown_adapters_are_refused_by_name(client: httpx.Client, tower: dict[str, Any]) -> None:
    response = client.post("/v1/answers", json={"question": "When?", "collection": "towers", "adapter": "nobody"})
    assert problem(response) == (404, "unknown-adapter")
    assert "'nobody'" in response.json()["detail"]
    assert "tower" in response.json()["detail"]
    assert problem(client.get("/v1/adapters/nobody")) == (404, "unknown-adapter")
    assert problem(client.delete("/v1/adapters/nobody")) == (404, "unknown-adapter")
    assert problem(client.post("/v1/collections", json={"name": "y", "adapter": "nobody"}))[0] == 404
    assert problem(client.patch("/v1/collections/towers", json={"adapter": "nobody"}))[0] == 404


def test_a_training_that_was_cancelled_is_gone_on_with_when_it_is_asked_for_again(
    client: httpx.Client, tower: dict[str, Any]
) -> None:
    dataset = tower["settings"]["dataset"]
    asked = {"name": "twice", "dataset": dataset, "data": TOGETHER, "training": {**SHORT, "epochs": 100}}
    job = client.post("/v1/adapters", json=asked).raise_for_status().json()["job"]
    assert problem(client.post("/v1/adapters", json=asked)) == (409, "adapter-exists")
    assert problem(client.delete("/v1/adapters/twice")) == (409, "adapter-busy")
    response = client.post("/v1/answers", json={"question": "When?", "collection": "towers", "adapter": "twice"})
    assert problem(response) == (404, "unknown-adapter")
    client.delete(f"/v1/jobs/{job}").raise_for_status()
    assert trained(client, "twice")["state"] == "cancelled"
    other = client.post("/v1/adapters", json={**asked, "training": SHORT})
    assert problem(other) == (409, "adapter-exists")
    again = client.post("/v1/adapters", json=asked).raise_for_status().json()
    assert again["job"] != job
    client.delete(f"/v1/jobs/{again['job']}").raise_for_status()
    trained(client, "twice")
    assert client.delete("/v1/adapters/twice").status_code == 204
    assert problem(client.get("/v1/adapters/twice")) == (404, "unknown-adapter")


def test_a_training_that_is_killed_is_gone_on_with(make_service: Callable[..., Service]) -> None:
    service = make_service()
    client = service.start(ready=True)
    dataset = client.post("/v1/datasets", files=[("file", ("towers.jsonl", questions()))]).json()["id"]
    training = {**SHORT, "epochs": 10, "validate_every": 1, "patience": 1000}
    client.post(
        "/v1/adapters", json={"name": "slow", "dataset": dataset, "data": TOGETHER, "training": training}
    ).raise_for_status()
    end = time.monotonic() + 120
    while (before := client.get("/v1/adapters/slow").json()["progress"]["done"]) < 100:
        assert time.monotonic() < end
        time.sleep(0.1)
    service.kill()
    client = service.start(ready=True)
    end = time.monotonic() + 120
    seen = []
    while not (entry := client.get("/v1/adapters/slow").json())["ready"]:
        assert (entry["error"], time.monotonic() < end) == (None, True)
        if entry["state"] == "running" and entry["stage"].startswith("loss"):
            seen.append(entry["progress"]["done"])
        time.sleep(0.02)
    # A checkpoint is written at every validation, so hardly a step is done twice.
    assert min(seen, default=before) >= before - 50
    assert entry["card"]["result"]["exercises"] >= 10 * 0.9 * entry["card"]["data"]["training"]["exercises"]


def test_an_adapter_is_made_listed_used_and_deleted_on_the_command_line(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "towers.jsonl"
    file.write_bytes(questions())
    values = [f"--set={name}={value}" for name, value in SHORT.items()]
    made = refdesk(data, "craft", "train", "tower", "--dataset", str(file), *values)
    assert made.returncode == 0, made.stderr
    assert "before" in made.stdout
    assert "tower  ready" in refdesk(data, "adapters").stdout
    card = json.loads(refdesk(data, "adapters", "show", "tower").stdout)["card"]
    assert card["name"] == "tower"
    again = refdesk(data, "craft", "train", "tower", "--dataset", str(file), *values)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    folder = shutil.copytree(data / "adapters" / "tower", tmp_path / "elsewhere")
    assert "tower2  ready" in refdesk(data, "adapters", "add", "tower2", str(folder)).stdout
    for name, reason in (("tower2", "exists already"), ("Tower", "expected 1 to 64")):
        refused = refdesk(data, "adapters", "add", name, str(folder))
        assert (refused.returncode, reason in refused.stderr) == (1, True)
    (folder / "card.json").write_text(json.dumps({**card, "result": {"loss": {"all": "0.5"}}}))
    assert "result.loss.all is '0.5'" in refdesk(data, "adapters", "add", "tower3", str(folder)).stderr
    (folder / "card.json").write_text(json.dumps({**card, "base_fingerprint": "0" * 16}))
    assert "was trained for" in refdesk(data, "adapters", "add", "tower3", str(folder)).stderr
    assert "tower3" not in refdesk(data, "adapters").stdout
    assert refdesk(data, "adapters", "delete", "tower", "--yes").returncode == 0
    (data / "notes.md").write_text("The Selby Tower was finished in 1818.")
    assert refdesk(data, "ingest", str(data / "notes.md")).returncode == 0
    assert refdesk(data, "ask", "--adapter", "tower2", "When was the Selby Tower finished?").returncode == 0
    assert refdesk(data, "adapters", "delete", "tower2", "--yes").returncode == 0
    assert "tower" not in refdesk(data, "adapters").stdout
    assert refdesk(data, "craft", "train", "x", "--set", "rank=many", "--dataset", str(file)).returncode == 2
    assert refdesk(data, "craft", "prepare", str(tmp_path / "out")).returncode == 2
