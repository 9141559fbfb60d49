"""Memory and reading as options of a question, over REST."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bench.service import Service, finished, upload

pytestmark = pytest.mark.models

PAGES = {
    f"page{number}__txt": (
        f"The lighthouse number {number} was finished in {1800 + number}. "
        + f"Its keeper counted {number} hundred ships, and wrote each of them into a book. " * 8
    ).encode()
    for number in range(1, 6)
}
QUESTION = "In which year was the lighthouse number 3 finished?"


@pytest.fixture(scope="module")
def name(client: httpx.Client) -> str:
    """A collection of five short documents."""
    name = f"test-{uuid.uuid4().hex}"
    client.post("/v1/collections", json={"name": name}).raise_for_status()
    job = finished(client, upload(client, name, **PAGES).json()["job"]["id"])
    assert job["state"] == "succeeded"
    return name


def ask(client: httpx.Client, name: str, **options: Any) -> dict[str, Any]:
    fields = {"question": QUESTION, "collection": name, "k": 5, "max_new_tokens": 16}
    answer: dict[str, Any] = client.post("/v1/answers", json=fields | options).raise_for_status().json()
    return answer


def test_by_default_everything_is_held_and_read_together(client: httpx.Client, name: str) -> None:
    usage = ask(client, name)["usage"]
    assert (usage["reading"], usage["memory_policy"]) == ("together", "none")
    assert usage["memory"]["freed_entries"] == usage["memory"]["freed_bytes"] == 0
    assert usage["memory"]["held_entries"] == usage["memory"]["peak_entries"]


def test_a_rate_frees_what_it_says(client: httpx.Client, name: str) -> None:
    usage = ask(client, name, memory={"rate": 4})["usage"]
    memory, whole = usage["memory"], 90 * usage["prompt_tokens"]
    assert usage["memory_policy"] == "kv_compress"
    assert usage["prompt_tokens"] > 600
    assert memory["peak_entries"] >= whole
    assert memory["freed_entries"] > 0.7 * whole
    assert memory["held_bytes"] < 0.35 * memory["peak_bytes"]


def test_a_second_question_finds_the_passages_read(client: httpx.Client, name: str) -> None:
    first = ask(client, name, reading="apart")["usage"]
    second = ask(client, name, reading="apart", question="How many ships did keeper 2 count?")["usage"]
    assert first["reading"] == second["reading"] == "apart"
    assert first["run_misses"] >= 5 and first["run_loads"] == 0
    assert (second["run_hits"], second["run_misses"]) == (6, 0)
    assert ask(client, name, reading="apart")["answer"] == ask(client, name, reading="apart")["answer"]


def test_passages_that_were_prepared_are_loaded_and_not_read(client: httpx.Client) -> None:
    name = f"test-{uuid.uuid4().hex}"
    client.post("/v1/collections", json={"name": name}).raise_for_status()
    files = {file: content.replace(b"lighthouse", b"windmill") for file, content in PAGES.items()}
    finished(client, upload(client, name, **files).json()["job"]["id"])
    memories = f"/v1/collections/{name}/memories"
    for wrong, status in (({"of": "chapters"}, 400), ({"of": "passages", "near": 16}, 422)):
        assert client.post(memories, json=wrong).status_code == status
    accepted = client.post(memories, json={"of": "passages"})
    assert accepted.status_code == 202
    job = finished(client, accepted.json()["id"])
    assert (job["state"], job["kind"]) == ("succeeded", "memory")
    listed = client.get(memories).json()["items"]
    assert {(one["of"], one["rate"], one["fits"]) for one in listed} == {("passages", 1, True)}
    assert sum(one["tokens"] for one in listed) == job["progress"]["done"] == job["progress"]["total"]
    for one in listed:  # of the default model: 30 layers, three heads of 64 numbers of two bytes, twice
        assert 0 <= one["bytes"] / (30 * 2 * 3 * 64 * 2) - one["tokens"] < 0.1
    usage = ask(client, name, reading="apart")["usage"]
    assert (usage["run_hits"], usage["run_loads"], usage["run_misses"]) == (1, 5, 0)
    assert ask(client, name, reading="apart")["usage"]["run_hits"] == 6
    assert client.delete(f"{memories}/page1.txt").status_code == 204
    assert len(client.get(memories).json()["items"]) == 4


@pytest.mark.parametrize(
    ("options", "type_", "detail"),
    [
        ({"memory": {"policy": "elephant", "budget": 64}}, "invalid-memory", "'elephant'; expected one of none"),
        ({"memory": {"rate": 8, "budget": 64}}, "invalid-memory", "and not both"),
        ({"memory": {"policy": "snapkv"}}, "invalid-memory", "needs a budget or a rate"),
        ({"memory": {"rate": 0.5}}, "invalid-memory", "0.5; expected 1 to 1024"),
        ({"memory": {"rate": "8"}}, "invalid-memory", "'8'; expected a number"),
        ({"memory": {"rate": 8, "pooling": 4}}, "invalid-memory", "4; expected an odd number"),
        ({"memory": {"rate": 8, "elephants": 4}}, "invalid-memory", "'elephants' is unknown to kv_compress"),
        ({"memory": {"budget": 3}}, "invalid-memory", "3; expected at least 32"),
        ({"reading": "sideways"}, "invalid-option", "'sideways'; expected one of together, apart, auto"),
    ],
)
def test_an_impossible_memory_or_reading_is_refused_by_name(
    client: httpx.Client, name: str, options: dict[str, Any], type_: str, detail: str
) -> None:
    response = client.post("/v1/answers", json={"question": QUESTION, "collection": name} | options)
    assert response.status_code == 422
    assert response.json()["type"] == f"urn:refdesk:problem:{type_}"
    assert detail in response.json()["detail"]


def test_memory_that_is_no_object_is_refused(client: httpx.Client, name: str) -> None:
    for wrong in ("kv_compress", 8, [8]):
        response = client.post("/v1/answers", json={"question": QUESTION, "collection": name, "memory": wrong})
        assert (response.status_code, response.json()["type"]) == (400, "urn:refdesk:problem:invalid-request")


def test_what_can_never_be_held_is_refused_by_status_streamed_or_not_and_thinned_where_nothing_is_asked(
    make_service: Callable[..., Service],
) -> None:
    small = make_service(REFDESK_KV_MEMORY_MB="48", REFDESK_DTYPE="float32").start(ready=True)  # 1,000 tokens
    small.post("/v1/collections", json={"name": "small"}).raise_for_status()
    finished(small, upload(small, "small", **PAGES).json()["job"]["id"])
    asked = {"question": QUESTION, "collection": "small", "k": 5, "max_new_tokens": 300, "stop": []}
    untrained = {"policy": "locret", "budget": 400}
    for stream in (False, True):
        for memory, adapter, type_ in (
            ({"policy": "none"}, None, "memory-too-small"),
            (untrained, "none", "invalid-option"),
        ):
            body = asked | {"stream": stream, "memory": memory, "adapter": adapter}
            response = small.post("/v1/answers", json=body)
            assert (response.status_code, response.json()["type"]) == (422, f"urn:refdesk:problem:{type_}")
    usage = small.post("/v1/answers", json=asked).raise_for_status().json()["usage"]
    assert (usage["memory_policy"], usage["passages_dropped"]) == ("locret_q", 0)
