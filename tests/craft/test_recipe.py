"""Recipes: what is refused before any work, and changed by name."""

import math
from dataclasses import fields
from typing import Any

import pytest

from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.recipe import DataRecipe, HeadsRecipe, TrainingRecipe, changed

BAD_DATA: list[tuple[str, list[Any]]] = [
    ("oracle_share", [-0.01, 1.01, math.nan]),
    ("apart_share", [-0.01, 1.01, math.nan]),
    ("quote_share", [-0.01, 1.01, math.nan]),
    ("ask_share", [-0.01, 1.01, math.nan]),
    ("distractors", [(), (-1,), (3, 100)]),
    ("most_exercises", [0, 1001]),
    ("rounds", [0, 101]),
    ("seed", [-1, 2**63]),
]
BAD_COURSE: list[tuple[str, list[Any]]] = [
    ("learning_rate", [0, 1.5, math.nan]),
    ("weight_decay", [-0.1, 1.1]),
    ("warmup", [-0.1, 1.1]),
    ("batch", [0, 4097]),
    ("epochs", [0, -1, 101]),
    ("longest", [15, 10**6 + 1]),
    ("validate_every", [0, 10**6 + 1]),
    ("patience", [0, 10**6 + 1]),
    ("minutes", [0, -5, math.nan, math.inf]),
    ("question_share", [-0.1, 1.1, math.nan]),
    ("seed", [-1, 2**63]),
]
BAD_HEADS: list[tuple[str, list[Any]]] = [
    *BAD_COURSE,
    ("inner", [0, 8193]),
    ("target", ["shares", ""]),
    ("smoothing", [-0.1, 101, math.nan]),
    ("validation", [0, 10**6 + 1]),
]
BAD_TRAINING: list[tuple[str, list[Any]]] = [
    *BAD_COURSE,
    ("rank", [0, 1025]),
    ("alpha", [0, -1.0, 1e5, math.inf]),
    ("dropout", [-0.1, 0.91, math.nan]),
]


@pytest.mark.parametrize(
    ("recipe", "name", "values"),
    [
        *((DataRecipe(), *bad) for bad in BAD_DATA),
        *((TrainingRecipe(), *bad) for bad in BAD_TRAINING),
        *((HeadsRecipe(), *bad) for bad in BAD_HEADS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_out_of_range_is_refused_by_its_name(
    recipe: DataRecipe | HeadsRecipe | TrainingRecipe, name: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(InvalidRecipe, match=f"^{name} is "):
            changed(recipe, {name: value})


@pytest.mark.parametrize(
    ("recipe", "bad"), [(DataRecipe(), BAD_DATA), (TrainingRecipe(), BAD_TRAINING), (HeadsRecipe(), BAD_HEADS)]
)
def test_every_setting_but_a_switch_has_bounds(recipe: Any, bad: list[tuple[str, list[Any]]]) -> None:
    switches = {field.name for field in fields(recipe) if isinstance(getattr(recipe, field.name), bool)}
    assert {field.name for field in fields(recipe)} - switches == {name for name, _ in bad}


def test_the_bounds_themselves_are_no_error() -> None:
    DataRecipe(oracle_share=0, distractors=(0, 99), apart_share=1, quote_share=0, ask_share=1, most_exercises=1)
    HeadsRecipe(inner=1, smoothing=0, weight_decay=0, warmup=1, question_share=0, validation=1, minutes=0.01)
    HeadsRecipe(inner=8192, smoothing=100, learning_rate=1, epochs=100, question_share=1)
    TrainingRecipe(rank=1, dropout=0.9, learning_rate=1e-8, warmup=0, batch=1, epochs=0.001, minutes=0.01)
    TrainingRecipe(rank=1024, weight_decay=1, warmup=1, longest=16, patience=1, validate_every=1, seed=2**63 - 1)


def test_a_setting_is_changed_by_name_and_the_others_stay() -> None:
    recipe = TrainingRecipe(rank=8, minutes=5.0)
    assert changed(recipe, {"batch": 4}) == TrainingRecipe(rank=8, minutes=5.0, batch=4)
    assert changed(recipe, {}) == recipe
    assert changed(HeadsRecipe(inner=64), {"smoothing": 0.0}) == HeadsRecipe(inner=64, smoothing=0.0)
    assert changed(DataRecipe(seed=3), {"distractors": (1,)}) == DataRecipe(seed=3, distractors=(1,))


@pytest.mark.parametrize("recipe", [DataRecipe(), TrainingRecipe()])
def test_an_unknown_name_is_refused_with_those_that_there_are(recipe: DataRecipe | TrainingRecipe) -> None:
    with pytest.raises(InvalidRecipe, match=r"unknown setting 'ranks'; known: .*seed"):
        changed(recipe, {"seed": 1, "ranks": 3})


@pytest.mark.parametrize(
    ("recipe", "name", "value"),
    [
        *((TrainingRecipe(), "rank", value) for value in ("abc", None, [1], True, 16.5, 10**30)),
        *((TrainingRecipe(), "checkpointing", value) for value in ("no", 1)),
        *((TrainingRecipe(), "minutes", value) for value in (True, "3", [3])),
        *((DataRecipe(), "distractors", value) for value in (5, "55", {"1": 2}, [1.5], [None], [[1]])),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(
    recipe: DataRecipe | HeadsRecipe | TrainingRecipe, name: str, value: Any
) -> None:
    with pytest.raises(InvalidRecipe, match=name):
        changed(recipe, {name: value})


def test_values_come_as_json_gives_them() -> None:
    assert changed(DataRecipe(), {"distractors": [1, 2]}).distractors == (1, 2)
    assert changed(TrainingRecipe(), {"alpha": 8, "minutes": None}).alpha == 8
