"""`refdesk keys`: who may use the service."""

import click

from refdesk.app.cli.output import notes, open_desk
from refdesk.app.keys import SCOPES, add_key, list_keys, remove_key
from refdesk.app.settings import Settings


@click.group()
def keys() -> None:
    """Add, list and remove API keys; the first one closes the service to everybody without one."""


@keys.command()
@click.argument("name")
@click.option("--scope", type=click.Choice(SCOPES), default="read", show_default=True)
@click.pass_obj
def add(settings: Settings, name: str, scope: str) -> None:
    """Make a key called NAME and print it; it is not shown again."""
    with open_desk(settings) as desk:
        secret = add_key(desk.engine, name, scope)
    notes.print("Keep this key: it is not stored and not shown again.")
    click.echo(secret)


@keys.command("list")
@click.pass_obj
def list_all(settings: Settings) -> None:
    """Every key's name and scope."""
    with open_desk(settings) as desk:
        for key in list_keys(desk.engine):
            click.echo(f"{key.scope:6} {key.name}")


@keys.command()
@click.argument("name")
@click.pass_obj
def remove(settings: Settings, name: str) -> None:
    """Remove the key called NAME; who uses it is locked out at once."""
    with open_desk(settings) as desk:
        remove_key(desk.engine, name)
    click.echo(f"removed {name}")
