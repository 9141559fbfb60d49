"""Who may do what: open while no API key exists (and then on loopback only), by bearer key afterwards."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from refdesk.app.keys import any_key, scope_of

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


class Unauthorized(Exception):
    """No key, or one that is not known."""


class Forbidden(Exception):
    """A key whose scope does not reach."""


def require(scope: str) -> Guard:
    """A guard that lets pass who may `read` or `admin`; an admin key may do both."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        engine = connection.app.state.desk.engine
        if not await anyio.to_thread.run_sync(any_key, engine):
            return
        kind, _, secret = connection.headers.get("authorization", "").partition(" ")
        held = await anyio.to_thread.run_sync(scope_of, engine, secret) if kind.lower() == "bearer" else None
        if held is None:
            raise Unauthorized("expected the header 'Authorization: Bearer <API key>' with a known key")
        if held not in (scope, "admin"):
            raise Forbidden(f"this key has the scope {held!r}; expected {scope!r}")

    return guard
