"""Evaluations over the REST interface of the real service with the real models."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bench.evaluation_kills import survive
from bench.service import Service
from tests.eval.conftest import ROWS, jsonl

pytestmark = pytest.mark.models


def upload(client: httpx.Client, content: bytes, name: str = "harrow.jsonl") -> httpx.Response:
    return client.post("/v1/datasets", files=[("file", (name, content))])


def finished(client: httpx.Client, run_id: str, seconds: float = 120) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run: dict[str, Any] = client.get(f"/v1/evaluations/{run_id}").raise_for_status().json()
        if run["finished_at"] is not None:
            return run
        time.sleep(0.05)
    raise AssertionError(f"run {run_id} is not over after {seconds} s: {run}")


def test_a_data_set_of_ones_own_is_evaluated(client: httpx.Client) -> None:
    dataset = upload(client, jsonl(*ROWS)).raise_for_status().json()
    assert (dataset["name"], dataset["examples"]) == ("harrow.jsonl", 3)
    assert dataset in client.get("/v1/datasets").json()["items"]
    started = client.post("/v1/evaluations", json={"dataset": dataset["id"], "pipeline": "oracle"})
    assert started.status_code == 202
    run = started.json()
    assert started.headers["location"] == f"/v1/evaluations/{run['id']}"
    assert run["progress"] == {"done": 0, "total": 3}
    run = finished(client, run["id"])
    assert (run["state"], run["progress"]["done"], run["unanswered"]) == ("succeeded", 3, 0)
    assert run["scores"]["contains"]["n"] == 2
    assert run["scores"]["contains"]["mean"] > 0
    assert run["scores"]["kept_gold"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert next(iter(run["scores"])) == "f1"
    assert run["costs"]["prompt_tokens"] > 0
    assert run["versions"]["model_fingerprint"]
    assert client.get(f"/v1/jobs/{run['job']}").json()["kind"] == "evaluate"
    assert run["id"] in {one["id"] for one in client.get("/v1/evaluations").json()["items"]}
    first = client.get(f"/v1/evaluations/{run['id']}/scores", params={"limit": 2}).json()
    rest = client.get(f"/v1/evaluations/{run['id']}/scores", params={"cursor": first["next_cursor"]}).json()
    assert [row["example"] for row in first["items"] + rest["items"]] == ["tower", "bridge", "mayor"]
    assert rest["next_cursor"] is None
    assert "1911" in first["items"][0]["answer"]
    assert run["dataset"] == dataset["id"]
    assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert client.get(f"/v1/evaluations/{run['id']}").status_code == 404
    assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 404


def test_a_run_that_is_deleted_stops_and_keeps_what_it_has(client: httpx.Client) -> None:
    rows = [ROWS[0] | {"id": str(number)} for number in range(100)]
    dataset = upload(client, jsonl(*rows)).json()["id"]
    run_id = client.post("/v1/evaluations", json={"dataset": dataset, "pipeline": "full"}).json()["id"]
    while (run := client.get(f"/v1/evaluations/{run_id}").json())["progress"]["done"] < 2:
        time.sleep(0.05)
    assert run["seconds_left"] > 0
    assert client.delete(f"/v1/evaluations/{run_id}").status_code == 202
    run = finished(client, run_id)
    assert run["state"] == "cancelled"
    assert 2 <= run["progress"]["done"] < 100
    assert run["seconds_left"] is None


@pytest.mark.parametrize(
    ("request_", "status", "type_", "detail"),
    [
        ({}, 400, "invalid-request", "either a task or a dataset"),
        ({"task": "squad", "dataset": "x"}, 400, "invalid-request", "either a task or a dataset"),
        ({"task": "squad", "colour": 1}, 400, "invalid-request", "colour"),
        ({"task": "squad", "search": "magic"}, 400, "invalid-request", "search"),
        ({"task": "trivia"}, 422, "invalid-evaluation", "unknown task 'trivia'"),
        ({"task": "squad", "pipeline": "best"}, 422, "invalid-evaluation", "unknown pipeline 'best'"),
        ({"task": "squad", "metrics": ["f3"]}, 422, "invalid-evaluation", "unknown metric 'f3'"),
        ({"task": "nq", "task_options": {"gold_at": 20}}, 422, "invalid-evaluation", "gold_at is 20"),
        ({"task": "squad"}, 422, "missing-data", "no benchmark data"),
        ({"dataset": "nope"}, 404, "unknown-dataset", "'nope'"),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_the_reason(
    client: httpx.Client, request_: dict[str, Any], status: int, type_: str, detail: str
) -> None:
    before = len(client.get("/v1/evaluations", params={"limit": 100}).json()["items"])
    response = client.post("/v1/evaluations", json=request_)
    assert response.status_code == status
    problem = response.json()
    assert problem["type"] == f"urn:refdesk:problem:{type_}"
    assert detail in problem["detail"]
    assert len(client.get("/v1/evaluations", params={"limit": 100}).json()["items"]) == before


def test_a_data_set_that_is_wrong_is_refused_with_its_line(client: httpx.Client) -> None:
    bad = jsonl(ROWS[0], ROWS[1] | {"answers": []})
    problem = upload(client, bad).json()
    assert (problem["status"], problem["type"]) == (422, "urn:refdesk:problem:invalid-dataset")
    assert "harrow.jsonl, line 2: answers is empty" in problem["detail"]
    for wrong in ({"files": [("data", ("x", b"{}"))]}, {"data": {"file": "text"}}, {"json": {"file": "text"}}, {}):
        response = client.post("/v1/datasets", **wrong)  # type: ignore[arg-type]
        assert response.status_code == 400, response.text
        detail = response.json()["detail"]
        assert "file" in detail or "multipart/form-data" in detail


def test_the_description_says_that_a_data_set_is_a_file(client: httpx.Client) -> None:
    described = client.get("/schema/openapi.json").json()
    body = described["paths"]["/v1/datasets"]["post"]["requestBody"]["content"]
    assert list(body) == ["multipart/form-data"]
    assert {"/v1/evaluations", "/v1/evaluations/{run_id}/scores"} <= described["paths"].keys()


def test_what_is_not_there_is_told(client: httpx.Client) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/scores")):
        response = client.request(method, f"/v1/evaluations/nope{path}")
        assert response.status_code == 404
        assert response.json()["type"] == "urn:refdesk:problem:unknown-evaluation"


def test_killed_at_random_moments_a_run_equals_one_never_killed(make_service: Callable[..., Service]) -> None:
    service = make_service()
    client = service.start(ready=True)
    rows = [ROWS[number % 2] | {"id": str(number)} for number in range(24)]
    dataset = upload(client, jsonl(*rows)).json()["id"]
    client.close()
    service.kill()
    met, total, equal = survive(service, {"dataset": dataset, "pipeline": "top_k"}, kills=2, seed=3)
    assert met > 0
    assert (total, equal) == (24, 24)
