"""How lessons are made and how adapters and heads learn from them: settings, checked whole before any work."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec

from refdesk.craft.errors import InvalidRecipe

_TARGETS = ("share", "logit")

# Of every setting that is a number, the least and the most that can be meant.
_LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("oracle_share", "apart_share", "quote_share", "ask_share", "question_share"), (0, 1)),
    "distractors": (0, 99),
    "most_exercises": (1, 1000),
    "rounds": (1, 100),
    "rank": (1, 1024),
    "alpha": (1e-3, 1e4),
    "dropout": (0, 0.9),
    "inner": (1, 8192),
    "smoothing": (0, 100),
    "learning_rate": (1e-8, 1),
    "weight_decay": (0, 1),
    "warmup": (0, 1),
    "batch": (1, 4096),
    "epochs": (0.001, 100),
    "longest": (16, 10**6),
    **dict.fromkeys(("validate_every", "validation", "patience"), (1, 10**6)),
    "minutes": (0.01, 10**6),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class _Recipe:
    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for one in value if isinstance(value, tuple) else (value,):
                if field.name in _LIMITS and one is not None:
                    _check(field.name, one, *_LIMITS[field.name])


@dataclass(frozen=True)
class DataRecipe(_Recipe):
    """RAFT data (arXiv 2403.10131 section 3).

    `oracle_share`: of the questions, those whose passages hold the answer (P in the paper); the others learn to
    say that it cannot be found. `distractors`: passages beside the oracle, drawn anew for each lesson.
    `apart_share`: of the lessons, those whose passages are read apart. `quote_share`: of the answers, those that
    quote first, where a quote is known. `ask_share`: of the lessons of one passage, those that teach to ask too.
    `most_exercises`: of one lesson. `rounds`: how often each question is asked, over other passages each time.
    `seed`: the same seed makes the same lessons.

    Raises:
        InvalidRecipe: a value out of range.
    """

    oracle_share: float = 0.9
    distractors: tuple[int, ...] = (0, 0, 1, 2, 4, 4, 9, 19)
    apart_share: float = 0.5
    quote_share: float = 0.3
    ask_share: float = 0.5
    most_exercises: int = 24
    rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.distractors:
            raise InvalidRecipe("distractors is empty; expected at least one number")
        super().__post_init__()


@dataclass(frozen=True)
class CourseRecipe(_Recipe):
    """What is the same of all courses.

    `learning_rate`: at its highest, after `warmup` (a share of the steps). `batch`: of one step. `epochs`: passes
    over the lessons. `longest`: tokens of a lesson; longer ones are left out and counted. `validate_every`: steps;
    training ends when the validation loss has not fallen for `patience` of them, and the best is kept. `minutes`:
    the schedule is planned to end then, if that is sooner. `question_share`: of the lessons, those that keep one
    question and have it ahead of the passages too, as some policies of memory read it.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    batch: int = 32
    epochs: float = 1.0
    longest: int = 6144
    validate_every: int = 50
    patience: int = 4
    minutes: float | None = None
    question_share: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class TrainingRecipe(CourseRecipe):
    """LoRA (arXiv 2106.09685) on every linear layer; besides what is in CourseRecipe:

    `rank`, `alpha`: the update is scaled by alpha / rank. `batch` is of exercises, about. The learning rate falls
    as a cosine to a tenth. `checkpointing`: compute activations twice instead of keeping them. `quantize`: the
    base model in 4 bits (CUDA only).

    Raises:
        InvalidRecipe: a value out of range.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    checkpointing: bool = False
    quantize: bool = False


@dataclass(frozen=True)
class HeadsRecipe(CourseRecipe):
    """Retaining heads (Locret, arXiv 2410.01805 section 3.2 and appendix); besides what is in CourseRecipe:

    `inner`: width of a head between its two layers. `target`: what heads learn. `share`: how an answer's attention
    is spread over the passages, every token counting for its neighbours too; `logit`: the highest attention logit
    of each token, by regression, as the paper has it. `smoothing`, of `logit` only: weight of the sum over layers
    of the mean square of the difference between the scores of neighbouring tokens. `batch` is of lessons. The
    learning rate falls in a line to nothing. `validation`: lessons that are used to validate.

    Raises:
        InvalidRecipe: a value out of range.
    """

    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    batch: int = 1
    validate_every: int = 250
    inner: int = 128
    target: str = "share"
    smoothing: float = 0.0025
    question_share: float = 0.5
    validation: int = 60

    def __post_init__(self) -> None:
        if self.target not in _TARGETS:
            raise InvalidRecipe(f"target is {self.target!r}; expected one of {', '.join(_TARGETS)}")
        super().__post_init__()


def changed(recipe: Any, values: dict[str, Any]) -> Any:
    """`recipe` with other values by name. Raises InvalidRecipe for an unknown name or a bad value."""
    known = [field.name for field in fields(recipe)]
    for name in values:
        if name not in known:
            raise InvalidRecipe(f"unknown setting {name!r}; known: {', '.join(known)}")
    try:
        return msgspec.convert({**asdict(recipe), **values}, type(recipe))
    except msgspec.ValidationError as error:
        raise InvalidRecipe(str(error)) from error


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidRecipe(f"{name} is {value}; expected {low:g} to {high:g}")
