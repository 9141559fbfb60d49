"""API keys: open without any, closed with the first, and each scope to its own."""

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import Engine, select

from bench.service import Service, upload
from refdesk import schema
from refdesk.app.keys import InvalidKey, add_key, any_key, list_keys, remove_key, scope_of
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
