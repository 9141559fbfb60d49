"""The real service, in a process of its own, over real models."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

START_S = 120


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Service:
    """`refdesk serve` on loopback over a data folder; may be killed and started again."""

    data: Path
    database: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, ready: bool = False) -> httpx.Client:
        """Start it and wait until it answers, with `ready` until the models are loaded too."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REFDESK_")} | self.environment
        environment |= {"REFDESK_DATA": str(self.data), "REFDESK_PORT": str(self.port)}
        if self.database:
            environment["REFDESK_DATABASE"] = self.database
        self.data.mkdir(parents=True, exist_ok=True)
        log = (self.data / "service.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "refdesk", "serve"], env=environment, stdout=log, stderr=log
        )
        client = httpx.Client(base_url=self.url, timeout=120)
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if client.get("/health/ready" if ready else "/health/live").status_code == 200:
                    return client
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the service did not start:\n{(self.data / 'service.log').read_text()[-3000:]}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process without giving it a chance (or with one, by SIGTERM)."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=90)
            self.process = None


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose model is converted already, to be shared by services through a link."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def make_service(tmp_path: Path, model_folder: Path) -> Iterator[Callable[..., Service]]:
    """Makes services over folders of the test's own; they end with it."""
    made: list[Service] = []

    def make(name: str = "data", database: str = "", **environment: str) -> Service:
        data = tmp_path / name
        data.mkdir(exist_ok=True)
        if not (data / "models").exists():
            (data / "models").symlink_to(model_folder)
        made.append(Service(data, database, environment))
        return made[-1]

    yield make
    for service in made:
        service.kill()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[httpx.Client]:
    """One service for all tests of a module, ready to answer."""
    data = tmp_path_factory.mktemp("service")
    (data / "models").symlink_to(model_folder)
    service = Service(data, environment={"REFDESK_MAX_UPLOAD_MB": "1"})
    client = service.start(ready=True)
    yield client
    client.close()
    service.kill(signal.SIGTERM)


def finished(client: httpx.Client, job_id: str, seconds: float = 120) -> dict:
    """The job, once it is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if job["state"] in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"job {job_id} is not over after {seconds} s: {job}")


def upload(client: httpx.Client, collection: str, **files: bytes) -> httpx.Response:
    """Send files, named by keyword with `__` for the dot of the suffix."""
    parts = [("file", (name.replace("__", "."), content)) for name, content in files.items()]
    return client.post(f"/v1/collections/{collection}/documents", files=parts)
