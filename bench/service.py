"""The real service in a process of its own, for tests and measurements: started, talked to, killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

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


def finished(client: httpx.Client, job_id: str, seconds: float = 120) -> dict[str, Any]:
    """The job, once it is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if job["state"] in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"job {job_id} is not over after {seconds} s: {job}")


def upload(client: httpx.Client, collection: str, **files: bytes) -> httpx.Response:
    """Send files, named by keyword with `__` for the dot of the suffix."""
    parts = [("file", (name.replace("__", "."), content)) for name, content in files.items()]
    return client.post(f"/v1/collections/{collection}/documents", files=parts)
