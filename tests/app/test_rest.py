"""The REST interface of the real service with the real models."""

import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path

import httpx
import pytest

from bench.service import finished, upload
from tests.retriever.bad_files import BAD_FILES, pdf, word

pytestmark = pytest.mark.models

PROBLEM = "application/problem+json"
ZANZIBAR = (
    b"The lighthouse of Zanzibar was finished in 1879. It is 34 metres high.\n\n"
    b"Its keeper, Amina Hassan, counted 212 ships in her first year.\n"
)


@pytest.fixture
def name(client: httpx.Client) -> str:
    """An empty collection of the test's own."""
    name = f"test-{uuid.uuid4().hex}"
    assert client.post("/v1/collections", json={"name": name}).status_code == 201
    return name


def ask(client: httpx.Client, **fields: object) -> httpx.Response:
    return client.post("/v1/answers", json={"max_new_tokens": 24, **fields})


def test_an_answer_is_cited_to_the_character_and_tells_its_cost(client: httpx.Client, name: str) -> None:
    accepted = upload(client, name, lighthouse__txt=ZANZIBAR, other__docx=word("Cows eat grass."))
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/v1/jobs/{accepted.json()['job']['id']}"
    job = finished(client, accepted.json()["job"]["id"])
    assert job["state"] == "succeeded"
    assert job["progress"]["done"] == job["progress"]["total"] > 0
    response = ask(client, collection=name, question="In which year was the lighthouse of Zanzibar finished?")
    answer = response.raise_for_status().json()
    assert "1879" in answer["answer"]
    assert answer["citations"]
    for citation in answer["citations"]:
        assert citation["document"] == "lighthouse.txt"
        text = client.get(f"/v1/collections/{name}/documents/lighthouse.txt/text").text
        assert text[citation["start"] : citation["end"]] == citation["quote"]
    assert "1879" in answer["citations"][0]["quote"]
    usage = answer["usage"]
    assert usage["passages_used"] == usage["passages_retrieved"] == 2
    assert usage["memory"]["peak_entries"] >= 90 * usage["prompt_tokens"]
    assert usage["memory"]["peak_bytes"] >= usage["memory"]["peak_entries"] * 2 * 64 * 2
    assert usage["seconds"]["total"] >= usage["seconds"]["prefill"] > 0


def test_a_streamed_answer_equals_the_whole_one(client: httpx.Client, name: str) -> None:
    finished(client, upload(client, name, lighthouse__txt=ZANZIBAR).json()["job"]["id"])
    question = {"question": "How high is the lighthouse?", "collection": name, "max_new_tokens": 16}
    whole = client.post("/v1/answers", json=question).json()
    with client.stream("POST", "/v1/answers", json=question, headers={"accept": "text/event-stream"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        body = stream.read().decode()
    events = [
        (
            re.search(r"^event: (.*?)\r?$", block, re.M)[1],
            json.loads(re.search(r"^data: (.*?)\r?$", block, re.M)[1]),
        )
        for block in re.split(r"\r?\n\r?\n", body)
        if block.strip()
    ]
    kinds = [kind for kind, _ in events]
    assert kinds[0] == "retrieval"
    assert kinds[-2:] == ["usage", "done"]
    done = events[-1][1]
    assert done["answer"] == whole["answer"]
    assert done["citations"] == whole["citations"]
    assert "".join(data["text"] for kind, data in events if kind == "token").strip() == whole["answer"]


def test_pages_of_a_pdf_are_cited(client: httpx.Client, name: str) -> None:
    finished(
        client, upload(client, name, a__pdf=pdf("The codename of the project is Bluebird.")).json()["job"]["id"]
    )
    answer = ask(client, collection=name, question="What is the codename of the project?").json()
    assert "Bluebird" in answer["answer"]
    assert answer["citations"][0]["page"] == 1


def test_documents_are_listed_a_page_at_a_time(client: httpx.Client, name: str) -> None:
    files = {f"d{i}__txt": b"text number %d" % i for i in range(5)}
    finished(client, upload(client, name, **files).json()["job"]["id"])
    seen, cursor = [], None
    while True:
        page = client.get(
            f"/v1/collections/{name}/documents", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [item["source_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"d{i}.txt" for i in range(5)]
    assert client.get(f"/v1/collections/{name}").json()["documents"] == 5


def test_the_same_content_does_no_work_and_new_content_replaces(client: httpx.Client, name: str) -> None:
    job = finished(client, upload(client, name, a__txt=ZANZIBAR).json()["job"]["id"])
    assert [item["state"] for item in job["documents"]] == ["done"]
    before = client.get(f"/v1/collections/{name}/documents/a.txt").json()
    job = finished(client, upload(client, name, a__txt=ZANZIBAR).json()["job"]["id"])
    assert [item["state"] for item in job["documents"]] == ["unchanged"]
    assert client.get(f"/v1/collections/{name}/documents/a.txt").json() == before
    finished(client, upload(client, name, a__txt=b"All new.").json()["job"]["id"])
    assert client.get(f"/v1/collections/{name}/documents/a.txt/text").text == "All new."
    assert client.get(f"/v1/collections/{name}/documents/{before['id']}").status_code == 404


def test_a_deleted_document_is_gone(client: httpx.Client, name: str) -> None:
    finished(client, upload(client, name, a__txt=ZANZIBAR).json()["job"]["id"])
    assert client.delete(f"/v1/collections/{name}/documents/a.txt").status_code == 204
    assert client.get(f"/v1/collections/{name}/documents/a.txt").status_code == 404
    answer = ask(client, collection=name, question="Who keeps the lighthouse?").json()
    assert answer["finish_reason"] == "no_passages"
    assert answer["citations"] == []
    assert client.delete(f"/v1/collections/{name}").status_code == 204
    assert client.get(f"/v1/collections/{name}").status_code == 404


def test_a_job_tells_its_progress_as_events_and_can_be_cancelled(client: httpx.Client, name: str) -> None:
    text = " ".join(f"Sentence number {i} is about thing {i}." for i in range(15_000)).encode()
    job_id = upload(client, name, long__txt=text).json()["job"]["id"]
    shares = []
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                job = json.loads(line.removeprefix("data: "))
                shares.append(job["progress"]["done"])
                if job["progress"]["done"] > 0 and job["state"] != "cancelled":
                    assert client.delete(f"/v1/jobs/{job_id}").status_code == 202
    assert job["state"] == "cancelled"
    assert shares == sorted(shares)
    assert 0 < shares[-1] < job["progress"]["total"]
    assert client.get(f"/v1/collections/{name}/documents").json()["items"] == []
    assert client.get(f"/v1/collections/{name}").json()["chunks"] == 0


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_a_clear_problem_and_nothing_is_stored(client: httpx.Client, name: str, case: str) -> None:
    file_name, content, reason = BAD_FILES[case]
    response = client.post(f"/v1/collections/{name}/documents", files=[("file", (file_name, content))])
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"].startswith("urn:refdesk:problem:")
    assert file_name in problem["detail"]
    assert reason in problem["detail"]
    assert client.get(f"/v1/collections/{name}/documents").json()["items"] == []
    assert client.get("/health/live").status_code == 200


def test_good_files_of_a_batch_come_in_beside_bad_ones(client: httpx.Client, name: str) -> None:
    files = [("file", (bad.name, bad.content)) for bad in {b.name: b for b in BAD_FILES.values()}.values()]
    files.insert(3, ("file", ("good.txt", ZANZIBAR)))
    response = client.post(f"/v1/collections/{name}/documents", files=files)
    assert response.status_code == 202
    body = response.json()
    assert len(body["rejected"]) == len(files) - 1
    assert all(item["detail"] and item["type"] for item in body["rejected"])
    job = finished(client, body["job"]["id"])
    assert job["state"] == "succeeded"
    assert [d["source_id"] for d in job["documents"] if d["state"] == "done"] == ["good.txt"]
    listed = client.get(f"/v1/collections/{name}/documents").json()["items"]
    assert [item["source_id"] for item in listed] == ["good.txt"]


def test_a_file_over_the_limit_is_refused(client: httpx.Client, name: str) -> None:
    response = upload(client, name, big__txt=b"words " * 200_000)
    assert response.status_code == 413
    assert "1,200,000 bytes; at most 1,048,576" in response.json()["detail"]
    assert upload(client, name, huge__txt=b"words " * 2_000_000).status_code == 413


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        ({"question": ""}, 422, "question"),
        ({"question": " \n "}, 422, "question"),
        ({"question": "x", "k": 0}, 422, "k is 0; expected 1 to 100"),
        ({"question": "x", "k": 1_000_000}, 422, "k is 1000000; expected 1 to 100"),
        ({"question": "x", "k": "many"}, 400, "k"),
        ({"question": "x", "max_new_tokens": 0}, 422, "max_new_tokens is 0"),
        ({"question": "x", "temperature": -1}, 422, "temperature"),
        ({"question": "x", "top_p": 2}, 422, "top_p"),
        ({"question": "x", "abstain": 0}, 422, "abstain is 0.0; expected more than 0 and at most 1"),
        ({"question": "x", "deadline_s": -1}, 422, "deadline_s"),
        ({"question": "x", "documents": []}, 422, "documents"),
        ({"question": "x", "documents": ["nope.txt"]}, 404, "nope.txt"),
        ({"question": "x", "collection": "nope"}, 404, "unknown collection 'nope'"),
        ({"question": "x", "colour": "red"}, 400, "unknown field `colour`"),
        ({}, 400, "question"),
        ({"question": "word " * 9000}, 422, "window"),
    ],
)
def test_a_bad_question_is_a_clear_problem(client: httpx.Client, fields: dict, status: int, detail: str) -> None:
    if client.get("/v1/collections/asked").status_code == 404:
        client.post("/v1/collections", json={"name": "asked"})
        finished(client, upload(client, "asked", a__txt=ZANZIBAR).json()["job"]["id"])
    for stream in (False, True):
        response = client.post("/v1/answers", json={"collection": "asked", "stream": stream, **fields})
        assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
        assert detail in response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("PATCH", "/v1/answers", None, 405),
        ("GET", "/v1/jobs/nope", None, 404),
        ("DELETE", "/v1/jobs/nope", None, 404),
        ("GET", "/v1/jobs/nope/events", None, 404),
        ("POST", "/v1/collections", b'{"name": "Not OK"}', 422),
        ("POST", "/v1/collections", b'{"name": "ok", "chunk_size": 5000}', 422),
        ("POST", "/v1/collections", b"not json", 400),
        ("POST", "/v1/collections/nope/documents", None, 404),
        ("GET", "/v1/collections/nope/documents?limit=0", None, 400),
    ],
)
def test_a_request_that_makes_no_sense_is_a_problem(
    client: httpx.Client, method: str, path: str, body: bytes | None, status: int
) -> None:
    response = client.request(method, path, content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    assert response.json()["detail"]


def test_a_form_without_files_is_refused(client: httpx.Client, name: str) -> None:
    path = f"/v1/collections/{name}/documents"
    assert "no file" in client.post(path, files={}, data={}).json()["detail"]
    response = client.post(path, files=[("documents", ("a.txt", b"text"))])
    assert response.status_code == 422
    assert "'documents'" in response.json()["detail"]
    twice = client.post(path, files=[("file", ("a.txt", b"one")), ("file", ("a.txt", b"two"))])
    assert twice.status_code == 422
    assert "twice" in twice.json()["detail"]


def test_a_collection_cannot_be_made_twice(client: httpx.Client, name: str) -> None:
    assert client.post("/v1/collections", json={"name": name}).status_code == 409


def test_the_description_is_openapi_3_1_and_names_every_operation(client: httpx.Client) -> None:
    schema = client.get("/schema/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    operations = {operation["operationId"] for path in schema["paths"].values() for operation in path.values()}
    assert {"CreateAnswer", "IngestDocuments", "CancelJob", "ListDocuments", "GetReadiness"} <= operations


def test_the_description_names_no_other_host(client: httpx.Client) -> None:
    page = client.get("/schema").text
    assert "//cdn" not in page
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(asset).status_code == 200, asset


@pytest.mark.browser
def test_the_description_is_shown_by_a_browser_without_a_network(client: httpx.Client, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium, and `make test` may install one only as root on Debian or Ubuntu")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    shown = subprocess.run(
        [
            *(chromium, *flags.split(), "--disable-component-update", f"--user-data-dir={tmp_path}"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=15000"),
            *("--dump-dom", f"{client.base_url}/schema"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    for path in ("/v1/answers", "/v1/collections/{name}/documents", "/v1/jobs/{job_id}"):
        assert re.search(rf'data-path="{re.escape(path)}"', shown), path
