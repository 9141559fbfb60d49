"""The real service, in a process of its own, over real models."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bench.service import Service


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
    service = Service(data, environment={"REFDESK_MAX_UPLOAD_MB": "1", "REFDESK_SHARED_DATA": str(data / "none")})
    client = service.start(ready=True)
    yield client
    client.close()
    service.kill(signal.SIGTERM)
