"""API keys: open without any, closed with the first, and each scope to its own."""

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from bench.service import Service, upload
from refdesk import schema
from refdesk.app.asgi import create_app
from refdesk.app.build import Desk
from refdesk.app.keys import InvalidKey, add_key, any_key, list_keys, remove_key, scope_of
from refdesk.app.settings import Settings
from refdesk.database import open_database


def test_a_key_is_known_by_its_secret_which_is_not_stored(engine: Engine) -> None:
    assert not any_key(engine)
    secret = add_key(engine, "alice", "read")
    assert scope_of(engine, secret) == "read"
    assert scope_of(engine, secret + "x") is None
    with engine.connect() as connection:
        assert secret not in str(connection.execute(select(schema.api_key)).all())
    assert [key.name for key in list_keys(engine)] == ["alice"]
    remove_key(engine, "alice")
    assert scope_of(engine, secret) is None


@pytest.mark.parametrize(("name", "scope"), [("", "read"), ("x", "root"), ("taken", "read")])
def test_a_key_that_cannot_be_is_refused(engine: Engine, name: str, scope: str) -> None:
    add_key(engine, "taken", "admin")
    with pytest.raises(InvalidKey):
        add_key(engine, name, scope)


@pytest.mark.models
def test_the_service_is_closed_by_the_first_key(make_service: Callable[..., Service]) -> None:
    service = make_service()
    client = service.start()
    assert client.post("/v1/collections", json={"name": "c"}).status_code == 201
    engine = open_database(f"sqlite:///{service.data / 'refdesk.db'}")
    reader, admin = add_key(engine, "reader", "read"), add_key(engine, "admin", "admin")
    engine.dispose()
    refused = client.get("/v1/collections")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["type"] == "urn:refdesk:problem:unauthorized"
    wrong = httpx.Client(base_url=service.url, headers={"authorization": "Bearer refdesk_wrong"})
    assert wrong.get("/v1/collections").status_code == 401
    may_read = httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {reader}"}, timeout=60)
    assert may_read.get("/v1/collections").status_code == 200
    assert upload(may_read, "c", a__txt=b"text").status_code == 403
    may_all = httpx.Client(base_url=service.url, headers={"authorization": f"bearer {admin}"}, timeout=60)
    assert upload(may_all, "c", a__txt=b"text").status_code == 202
    assert client.get("/health/live").status_code == 200


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Sends a GET request with these headers to the service as it `listens` on an address."""
    desks: list[Desk] = []

    @cache
    def app(listens: str) -> Any:
        desks.append(Desk(Settings(data=tmp_path, host=listens)))
        return create_app(desks[-1])

    def ask(path: str, listens: str = "127.0.0.1", **headers: str) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app(listens))) as client:
                return await client.get(f"http://127.0.0.1:8040{path}", headers=headers)

        return asyncio.run(send())

    yield ask
    for desk in desks:
        desk.close()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "desk.example"])
def test_the_last_key_that_goes_opens_no_service_that_others_reach(ask: Ask, address: str, tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'refdesk.db'}")
    bearer = f"Bearer {add_key(engine, 'alice', 'read')}"
    assert ask("/v1/collections", address, host="desk.example", authorization=bearer).status_code == 200
    remove_key(engine, "alice")
    engine.dispose()
    refused = ask("/v1/collections", address, host="localhost", authorization=bearer)
    assert refused.status_code == 401
    assert refused.json()["type"] == "urn:refdesk:problem:unauthorized"
    assert f"listens on {address}, which is not loopback, and no API key exists" in refused.json()["detail"]
    assert ask("/health/live", address, host="desk.example").status_code == 200


def test_without_a_key_a_web_page_cannot_come_in_by_a_name_of_its_own(ask: Ask) -> None:
    for host in ("evil.example", "evil.example:8040", "127.0.0.1.evil.example", "10.0.0.1", "[", ""):
        refused = ask("/v1/collections", host=host)
        assert refused.status_code == 403
        assert refused.json()["type"] == "urn:refdesk:problem:forbidden"
        assert f"the header Host is {host!r}; expected localhost or a loopback" in refused.json()["detail"]
        assert ask("/health/live", host=host).status_code == 200


def test_without_a_key_a_web_page_can_send_no_form(ask: Ask) -> None:
    for origin in ("https://evil.example", "http://127.0.0.1.evil.example", "null"):
        refused = ask("/v1/collections", host="localhost:8040", origin=origin)
        assert refused.status_code == 403
        assert f"the header Origin is {origin!r}; expected localhost or a loopback" in refused.json()["detail"]
    for origin in ("http://localhost:8040", "http://127.0.0.1:3000"):
        assert ask("/v1/collections", host="localhost:8040", origin=origin).status_code == 200


def test_without_a_key_loopback_is_open_by_each_of_its_names(ask: Ask) -> None:
    for host in ("127.0.0.1", "127.8.0.1:8040", "localhost", "LocalHost:80", "[::1]", "[::1]:8040"):
        assert ask("/v1/collections", host=host).status_code == 200
        assert ask("/v1/collections", "::1", host=host).status_code == 200
