"""`refdesk serve`: the REST service, in this process."""

import asyncio
import signal
import socket
from dataclasses import replace

import click
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from refdesk.app.asgi import create_app
from refdesk.app.auth import is_loopback
from refdesk.app.build import Desk
from refdesk.app.cli.output import failing_clearly, log_to_stderr, notes
from refdesk.app.keys import any_key
from refdesk.app.settings import Settings


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 8040]")
@click.pass_obj
def serve(settings: Settings, host: str | None, port: int | None) -> None:
    """Serve the REST interface; its description is at /schema.

    Any address but a loopback one is refused until there is an API key (refdesk keys add). Without one, requests
    must name the service by localhost or a loopback address.
    """
    settings = replace(settings, host=host or settings.host, port=port or settings.port)
    log_to_stderr(settings.log)
    with failing_clearly():
        desk = Desk(settings, report=lambda line: notes.print(line, style="dim", markup=False))
    try:
        _check_address(desk, settings)
    except click.ClickException:
        desk.close()
        raise
    notes.print(f"refdesk listens on http://{settings.host}:{settings.port} (its pages: /schema)")
    asyncio.run(_serve(desk, settings))


async def _serve(desk: Desk, settings: Settings) -> None:
    server = Server(
        create_app(desk),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        log_level=LogLevels(settings.log),
        websockets=False,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    await server.serve()


def _check_address(desk: Desk, settings: Settings) -> None:
    if not is_loopback(settings.host) and not any_key(desk.engine):
        raise click.ClickException(
            f"{settings.host} is not a loopback address, and no API key exists: anybody who reaches it could"
            " read and change everything. Make a key first: refdesk keys add NAME --scope admin"
        )
    try:
        with socket.create_server((settings.host, settings.port)):
            pass
    except OSError as error:
        raise click.ClickException(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
