"""Options of options: what a request writes beside a name, made into the dataclass that the name stands for."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list of texts"}

T = TypeVar("T")


def made(kind: type[T], options: Mapping[str, Any], what: str, owner: str, error: type[Exception]) -> T:
    """An instance of the dataclass `kind`, whose fields have defaults of the type that they are to have. `what`
    they are options of, and their `owner`, are for messages. Raises `error` for an option that is unknown or of
    another type."""
    known: dict[str, type] = {field.name: type(field.default) for field in fields(kind)}  # type: ignore[arg-type]
    for option, value in options.items():
        if option not in known:
            raise error(f"{what} option {option!r} is unknown to {owner}; known: {', '.join(known) or 'none'}")
        if not fits(value, known[option]):
            raise error(f"{what} option {option} is {value!r}; expected {_EXPECTED[known[option]]}")
    return kind(**{option: tuple(value) if known[option] is tuple else value for option, value in options.items()})


def fits(value: object, kind: type) -> bool:
    """Whether a value of JSON can stand for this type: a whole number is a number, true and false are none; a list
    of texts is a tuple."""
    if kind is tuple:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return type(value) is kind or (kind is float and type(value) is int)
