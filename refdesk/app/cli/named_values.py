"""Options of a question that have options of their own, as words of a command."""

from typing import Any

import click
import msgspec


def _parsed(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any] | None:
    options: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name or not value:
            raise click.BadParameter(f"{one!r}; expected NAME=VALUE, such as rate=8", context, parameter)
        if name in options:
            raise click.BadParameter(f"{name} stands there twice", context, parameter)
        options[name] = _value(value)
    return options or None


def _value(word: str) -> Any:
    """What it is in JSON, or the word itself."""
    try:
        return msgspec.json.decode(word)
    except msgspec.DecodeError:
        return word


memory_option = click.option(
    "--memory",
    multiple=True,
    callback=_parsed,
    metavar="NAME=VALUE",
    help="How much the model holds of what it reads, such as policy=kv_compress or rate=8; may be repeated. All"
    " that fits, by default.",
)
compression_option = click.option(
    "--compression",
    multiple=True,
    callback=_parsed,
    metavar="NAME=VALUE",
    help="How much of the passages the model reads, such as strategy=best or budget=400; may be repeated. All of"
    " them, by default.",
)
