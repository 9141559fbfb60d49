"""Who may do what: by bearer key; while no API key exists everything is open, and then on loopback only."""

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from refdesk.app.keys import any_key, scope_of

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


class Unauthorized(Exception):
    """No key, or one that is not known."""


class Forbidden(Exception):
    """A key whose scope does not reach, or no key and another host than loopback."""


def require(scope: str) -> Guard:
    """A guard that lets pass who may `read` or `admin`; an admin key may do both."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        desk = connection.app.state.desk
        engine = desk.engine
        if not await anyio.to_thread.run_sync(any_key, engine):
            _check_local(desk.settings.host, connection.headers)
            return
        kind, _, secret = connection.headers.get("authorization", "").partition(" ")
        held = await anyio.to_thread.run_sync(scope_of, engine, secret) if kind.lower() == "bearer" else None
        if held is None:
            raise Unauthorized("expected the header 'Authorization: Bearer <API key>' with a known key")
        if held not in (scope, "admin"):
            raise Forbidden(f"this key has the scope {held!r}; expected {scope!r}")

    return guard


def is_loopback(host: str) -> bool:
    """Whether this address or name is the machine itself, without asking a name server."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_local(listens: str, headers: Mapping[str, str]) -> None:
    if not is_loopback(listens):
        raise Unauthorized(
            f"the service listens on {listens}, which is not loopback, and no API key exists;"
            " expected a key that was made by refdesk keys add NAME"
        )
    # A web page may give its own name the address 127.0.0.1 (DNS rebinding), or send a form to this one; the
    # browser still says whose page it is.
    asked = {"Host": f"//{headers.get('host', '')}", "Origin": headers.get("origin", "//localhost")}
    for header, url in asked.items():
        if not is_loopback(_host_name(url)):
            raise Forbidden(
                f"the header {header} is {url.removeprefix('//')!r}; expected localhost or a loopback address,"
                " for no API key exists"
            )


def _host_name(url: str) -> str:
    """Without port and brackets; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
