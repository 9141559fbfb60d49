"""`--set NAME=VALUE`: settings of a recipe on the command line."""

from dataclasses import fields
from typing import Any, TypeVar

import click

from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.recipe import DataRecipe, HeadsRecipe, TrainingRecipe, changed

Recipe = TypeVar("Recipe", DataRecipe, HeadsRecipe, TrainingRecipe)

set_option = click.option(
    "--set", "values", multiple=True, metavar="NAME=VALUE", help="A setting of docs/craft.md; may be repeated."
)


def recipe_with(given: tuple[str, ...], defaults: Recipe) -> Recipe:
    """`defaults` with other values of the kind that they have themselves.

    Raises:
        BadParameter: no NAME=VALUE, an unknown name, another kind of value, or one out of range.
    """
    values: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not text:
            raise click.BadParameter(f"{one!r}; expected NAME=VALUE", param_hint="--set")
        if not hasattr(defaults, name):
            known = ", ".join(field.name for field in fields(defaults))
            raise click.BadParameter(f"unknown setting {name!r}; known: {known}", param_hint="--set")
        default = getattr(defaults, name)
        try:
            if isinstance(default, tuple):
                values[name] = tuple(int(part) for part in text.split(","))
            elif isinstance(default, bool):
                values[name] = {"true": True, "false": False}[text]
            elif isinstance(default, int):
                values[name] = int(text)
            else:
                values[name] = float(text)
        except (KeyError, ValueError):
            raise click.BadParameter(f"{one!r}; expected a value such as {default}", param_hint="--set") from None
    try:
        recipe: Recipe = changed(defaults, values)
    except InvalidRecipe as error:
        raise click.BadParameter(str(error), param_hint="--set") from None
    return recipe
