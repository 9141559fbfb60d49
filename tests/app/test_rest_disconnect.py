"""A client that hangs up is not worked for any longer."""

import json
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.service import Service, finished, upload

pytestmark = pytest.mark.models

# The default model's window takes 360 MiB in float32, so a request that may need more than half of it runs alone.
ROOM = {"REFDESK_KV_MEMORY_MB": "384", "REFDESK_DTYPE": "float32"}
NONSENSE = {"max_new_tokens": 4096, "temperature": 5, "seed": 1, "stop": []}  # goes on for minutes
A_WORD = {"max_new_tokens": 4096, "stop": [*"aeiou "], "deadline_s": 60}  # needs as much room, and seconds
DOCUMENT = " ".join(f"Keeper {i} of the lighthouse counted {i * 7} ships and wrote it down." for i in range(500))
QUESTION = "How many ships did keeper 30 count?"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Service]:
    """A service with room for one such request at a time."""
    data = tmp_path_factory.mktemp("service")
    (data / "models").symlink_to(model_folder)
    service = Service(data, environment=ROOM)
    yield service
    service.kill()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    """A client of it that does not hang up."""
    client = service.start(ready=True)
    yield client
    client.close()


@pytest.fixture(scope="module")
def name(client: httpx.Client) -> str:
    """A collection of one document that is longer than the window."""
    name = f"test-{uuid.uuid4().hex}"
    client.post("/v1/collections", json={"name": name}).raise_for_status()
    job = finished(client, upload(client, name, ships__txt=DOCUMENT.encode()).json()["job"]["id"])
    assert job["state"] == "succeeded"
    return name


def call(service: Service, **fields: Any) -> socket.socket:
    """Ask, and hold the line."""
    body = json.dumps({"question": QUESTION, "reading": "together", **fields}).encode()
    head = f"POST /v1/answers HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    line = socket.create_connection(("127.0.0.1", service.port), timeout=120)
    line.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    return line


def hear(line: socket.socket, event: str) -> None:
    """Wait for an event."""
    heard = b""
    while f"event: {event}".encode() not in heard:
        more = line.recv(4096)
        assert more, heard
        heard += more


@pytest.mark.parametrize(
    ("k", "event", "seconds"), [(100, "retrieval", 1.5), (1, "token", 4)], ids=["while read", "while answered"]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_hanging_up_ends_an_answer_and_gives_its_memory_to_the_next(
    k: int, event: str, seconds: float, stream: bool, client: httpx.Client, name: str, service: Service
) -> None:
    line = call(service, collection=name, k=k, stream=stream, **NONSENSE)
    if stream:
        hear(line, event)
    else:  # nothing is heard of a whole answer before its end
        time.sleep(seconds)
    line.close()
    response = client.post("/v1/answers", json={"question": QUESTION, "collection": name, "k": 1, **A_WORD})
    assert response.raise_for_status().json()["finish_reason"] == "stop"
    assert "Traceback" not in (service.data / "service.log").read_text()
