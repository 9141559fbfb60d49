"""Documents remembered and answered over, over REST."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bench.service import Service, finished, upload

pytestmark = pytest.mark.models

STORY = " ".join(
    f"The lighthouse number {n} was finished in {1800 + n}, and its keeper was called Keeper{n}."
    for n in range(60)
)
QUESTION = "In which year was the lighthouse number 3 finished?"


@pytest.fixture(scope="module")
def name(client: httpx.Client) -> str:
    """A collection of two documents, one of which has a memory."""
    name = f"test-{uuid.uuid4().hex}"
    client.post("/v1/collections", json={"name": name}).raise_for_status()
    finished(
        client, upload(client, name, story__txt=STORY.encode(), other__txt=b"Nothing here.").json()["job"]["id"]
    )
    accepted = client.post(f"/v1/collections/{name}/memories", json={"documents": ["story.txt"], "near": 64})
    assert accepted.status_code == 202
    job = finished(client, accepted.headers["Location"].rsplit("/", 1)[1])
    assert (job["kind"], job["state"], job["collection"]) == ("memory", "succeeded", name)
    assert job["documents"] == [{"source_id": "story.txt", "state": "done", "error": None}]
    assert job["progress"]["done"] == job["progress"]["total"] > 1000
    return name


def ask(client: httpx.Client, name: str, **options: Any) -> httpx.Response:
    fields = {"question": QUESTION, "collection": name, "max_new_tokens": 24, "context": "attended"}
    return client.post("/v1/answers", json=fields | options)


def test_a_remembered_document_is_answered_over_with_exact_citations(client: httpx.Client, name: str) -> None:
    answer = ask(client, name, documents=["story.txt"]).raise_for_status().json()
    (memory,) = client.get(f"/v1/collections/{name}/memories").json()["items"]
    usage = answer["usage"]
    assert (usage["context"], usage["document_tokens"]) == ("attended", memory["tokens"])
    assert usage["prompt_tokens"] < 200 < 1000 < memory["tokens"]
    assert len(answer["passages"]) == 5
    source = client.get(f"/v1/collections/{name}/documents/story.txt/text").text
    for citation in answer["citations"]:
        assert source[citation["start"] : citation["end"]] == citation["quote"]
    found = ask(client, name, k=1).raise_for_status().json()  # the document that holds the best passage
    assert found["answer"] == answer["answer"]
    streamed = ask(client, name, stream=True).text
    assert "event: done" in streamed and '"context":"attended"' in streamed
    read = ask(client, name, context="document", documents=["story.txt"], k=2).raise_for_status().json()
    assert (read["usage"]["context"], read["usage"]["document_tokens"]) == ("document", memory["tokens"])
    assert (read["usage"]["passages_used"], len(read["passages"])) == (2, 2)
    told = ask(client, name, context="document", documents=["story.txt"], k=2, stream=True).text
    retrieval = told.split("event: token")[0]  # what was found is told before the first word
    for passage in read["passages"]:
        assert 0 <= passage["start"] < passage["end"] <= len(source)
        assert f'"start":{passage["start"]},"end":{passage["end"]}' in retrieval
    assert ask(client, name, context="passages").json()["usage"]["context"] == "passages"
    assert ask(client, name, context="auto", documents=["story.txt"]).json()["usage"]["context"] == "document"
    assert ask(client, name, context="auto").json()["usage"]["context"] == "passages"


def test_memories_are_listed_with_what_they_are(client: httpx.Client, name: str) -> None:
    (memory,) = client.get(f"/v1/collections/{name}/memories").json()["items"]
    assert (memory["document"], memory["rate"], memory["adapter"], memory["fits"]) == (
        "story.txt",
        1,
        "craft",
        True,
    )
    assert memory["options"]["near"] == 64
    # Of the default model some layers hold all, 30 what is near; three heads of 64 numbers of two bytes, twice.
    entry = 2 * 3 * 64 * 2
    entries = len(memory["options"]["layers"]) * (memory["tokens"] - 64) + 30 * 64
    assert entry * entries < memory["bytes"] < entry * entries + 4 * memory["tokens"] + 2000


@pytest.mark.parametrize(
    ("options", "status", "type_", "detail"),
    [
        ({"documents": ["other.txt"]}, 404, "unknown-memory", "of 'other.txt'; make one by POST /v1/collections/"),
        ({"adapter": "none", "documents": ["story.txt"]}, 404, "unknown-memory", "with no adapter of 'story.txt'"),
        ({"documents": ["nope"]}, 404, "unknown-document", "'nope'"),
        ({"memory": {"rate": 8}}, 422, "invalid-option", "memory policy is 'kv_compress'; expected nothing"),
        ({"compression": {"rate": 4}}, 422, "invalid-option", "compression strategy is 'perception'"),
        ({"reading": "apart"}, 422, "invalid-option", "reading is 'apart'"),
        (
            {"context": "book"},
            422,
            "invalid-option",
            "context is 'book'; expected one of passages, document, attended, auto",
        ),
        ({"entries": 0}, 422, "invalid-option", "entries is 0; expected 1 to 65536"),
        ({"places": "near"}, 422, "invalid-option", "places is 'near'; expected one of clipped, scaled, true"),
        ({"entries": "many"}, 400, "invalid-request", "entries"),
    ],
)
def test_what_cannot_be_answered_over_is_refused_by_name(
    client: httpx.Client, name: str, options: dict[str, Any], status: int, type_: str, detail: str
) -> None:
    problem = ask(client, name, **options)
    assert (problem.status_code, problem.json()["type"]) == (status, f"urn:refdesk:problem:{type_}")
    assert detail in problem.json()["detail"]


@pytest.mark.parametrize(
    ("options", "status", "type_", "detail"),
    [
        ({"colour": "red"}, 400, "invalid-request", "colour"),
        ({"layers": "all"}, 400, "invalid-request", "layers"),
        ({"documents": ["nope"]}, 404, "unknown-document", "'nope'"),
        ({"adapter": "nope"}, 404, "unknown-adapter", "'nope'"),
        ({"window": 64, "overlap": 64}, 422, "invalid-option", "overlap is 64; expected 0"),
        ({"window": 9000}, 422, "invalid-option", "window is 9000; expected 1 to 8"),
        ({"overlap": 5000}, 422, "invalid-option", "overlap is 5000; expected less than the 2048 tokens"),
        ({"near": 4097}, 422, "invalid-option", "near is 4097; expected 1 to 4096"),
        ({"rate": 65}, 422, "invalid-option", "rate is 65"),
        (
            {"rate": 4, "keep": "best"},
            422,
            "invalid-option",
            "keep is 'best'; expected one of auto, locret, infini",
        ),
        ({"keep": "locret"}, 422, "invalid-option", "keep is 'locret'; expected auto, for at the rate 1"),
        ({"layers": [30]}, 422, "invalid-memory", "layers are [30]; expected some of 0 to 29"),
    ],
)
def test_what_cannot_be_remembered_is_refused_by_name(
    client: httpx.Client, name: str, options: dict[str, Any], status: int, type_: str, detail: str
) -> None:
    problem = client.post(f"/v1/collections/{name}/memories", json=options)
    assert (problem.status_code, problem.json()["type"]) == (status, f"urn:refdesk:problem:{type_}")
    assert detail in problem.json()["detail"]


def test_a_thinned_memory_is_smaller_and_goes_when_it_is_deleted(client: httpx.Client, name: str) -> None:
    (before,) = client.get(f"/v1/collections/{name}/memories").json()["items"]
    asked = {"documents": ["story.txt"], "rate": 4, "near": 64}
    for more, keep in (({"keep": "infinipot"}, "infinipot"), ({}, "locret")):
        job = finished(client, client.post(f"/v1/collections/{name}/memories", json=asked | more).json()["id"])
        assert job["state"] == "succeeded"
        assert job["documents"][0]["state"] == "done"
        (after,) = client.get(f"/v1/collections/{name}/memories").json()["items"]
        assert (after["rate"], after["options"]["keep"]) == (4, keep)
        assert after["bytes"] < before["bytes"] / 2.5
    assert ask(client, name).raise_for_status().json()["usage"]["document_tokens"] == after["tokens"]
    assert client.delete(f"/v1/collections/{name}/memories/story.txt").status_code == 204
    assert client.get(f"/v1/collections/{name}/memories").json() == {"items": []}
    gone = client.delete(f"/v1/collections/{name}/memories/story.txt")
    assert (gone.status_code, gone.json()["type"]) == (404, "urn:refdesk:problem:unknown-memory")
    assert ask(client, name).status_code == 404


def test_a_service_that_is_killed_while_it_reads_goes_on_with_it(make_service: Callable[..., Service]) -> None:
    service = make_service()
    client = service.start(ready=True)
    client.post("/v1/collections", json={"name": "stories"}).raise_for_status()
    finished(client, upload(client, "stories", story__txt=STORY.encode()).json()["job"]["id"])
    asked = {"window": 128, "overlap": 16, "near": 64}
    job_id = client.post("/v1/collections/stories/memories", json=asked).raise_for_status().json()["id"]
    while not (job := client.get(f"/v1/jobs/{job_id}").json())["progress"]["done"]:
        assert job["state"] in ("queued", "running")
    assert job["state"] == "running"
    service.kill()
    client = service.start(ready=True)
    job = finished(client, job_id)
    assert job["state"] == "succeeded"
    (memory,) = client.get("/v1/collections/stories/memories").json()["items"]
    answer = ask(client, "stories", documents=["story.txt"]).raise_for_status().json()
    assert answer["usage"]["document_tokens"] == memory["tokens"] == job["progress"]["total"]
