"""A course: lessons one after the other, step by step, until they are learned; resumable after any kill.

What is learned, and from what of a lesson, is a subclass's; the order of the lessons, the plan of the time,
validation, patience and checkpoints are the same for all.
"""

import hashlib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from refdesk.craft.encoding import EncodedLesson
from refdesk.craft.errors import InvalidLessons, InvalidRecipe
from refdesk.craft.recipe import CourseRecipe

_SAVE_S = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """How far a course is. `loss`: of what this step learned from. `left_s`: seconds to go, at the speed so far.
    `validation`: what one came to, by name, where the step ended with one."""

    step: int
    share: float
    loss: float
    seconds: float
    left_s: float
    validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Learned:
    """`state`: the weights at their best, in float32, by name. `curve`: every validation, `(step, what it came
    to)`, the first before anything was learned. `steps`, `exercises`, `tokens`: learned from. `peak_bytes`: of GPU
    memory, 0 on a CPU."""

    state: dict[str, torch.Tensor]
    curve: tuple[tuple[int, dict[str, float]], ...]
    best_step: int
    steps: int
    exercises: int
    tokens: int
    seconds: float
    peak_bytes: int


Report = Callable[[Step], None]
"""Called after every step; it raises what stops the course, which goes on from there when it is called again."""


@dataclass
class _Progress:
    """All of the state that is not a tensor. `place`: in the order of its epoch."""

    step: int = 0
    epoch: int = 0
    place: int = 0
    exercises: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best: float = math.inf
    best_step: int = 0


class Course(ABC):
    """`exact`: the weights that are learned, tensors in float32 by name, which `optimizer` steps. `identity`: of
    all that the result depends on besides the recipe and the lessons."""

    def __init__(
        self,
        lessons: Sequence[EncodedLesson],
        validation: Sequence[EncodedLesson],
        recipe: CourseRecipe,
        checkpoint: Path,
        exact: dict[str, Any],
        optimizer: torch.optim.Optimizer,
        identity: str,
    ) -> None:
        self._lessons, self._validation = lessons, validation
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._exact = exact
        self._optimizer = optimizer
        self._device = next(iter(exact.values())).device
        self._best = self._state()
        self._progress = _Progress()
        self._all_exercises = sum(lesson.count for lesson in lessons) * recipe.epochs
        self._identity = f"{recipe} {identity} {_digest((*lessons, *validation))}"

    def run(self, report: Report) -> None:
        """To the end, or to where `report` stops it.

        Raises:
            InvalidRecipe: the checkpoint is of something else, or the loss is no number any more.
        """
        self._resume()
        progress = self._progress
        started = perf_counter() - progress.seconds
        saved = perf_counter()
        if not progress.curve:
            self._validate()
        while (share := self._share()) < 1 and not self._out_of_patience():
            loss = self._step(share)
            if not math.isfinite(loss):
                raise InvalidRecipe(
                    f"training diverged at step {progress.step + 1}: the loss is {loss}; expected a lower"
                    f" learning_rate than {self._recipe.learning_rate:g}"
                )
            progress.step += 1
            progress.seconds = perf_counter() - started
            validates = progress.step % self._recipe.validate_every == 0 or self._share() >= 1
            found = {}
            if validates:  # no time passes else, or the minutes might be over behind the last validation
                found = self._validate()
                progress.seconds = perf_counter() - started
            if validates or perf_counter() - saved > _SAVE_S:
                self._save()
                saved = perf_counter()
            share = min(self._share(), 1.0)
            left = progress.seconds / share * (1 - share)
            report(Step(progress.step, share, loss, progress.seconds, left, found))

    def learned(self) -> Learned:
        """What it came to."""
        progress = self._progress
        return Learned(
            state={name: tensor.cpu() for name, tensor in self._best.items()},
            curve=tuple(progress.curve),
            best_step=progress.best_step,
            steps=progress.step,
            exercises=progress.exercises,
            tokens=progress.tokens,
            seconds=progress.seconds,
            peak_bytes=torch.cuda.max_memory_allocated() if self._device.type == "cuda" else 0,
        )

    @abstractmethod
    def _step(self, share: float) -> float:
        """Learn from the next `_batch`, at this share of the course; the loss."""

    @abstractmethod
    def _assess(self, lessons: Sequence[EncodedLesson]) -> dict[str, float]:
        """What is thought of the weights now, by name; `all` is to be as low as possible."""

    @abstractmethod
    def _size(self, lesson: EncodedLesson) -> int:
        """What a lesson counts in a batch."""

    def _use(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: B027 (they may be in use as they are)
        """The exact weights have changed to these."""

    def _share(self) -> float:
        """Of the course, what is done."""
        by_data = self._progress.exercises / self._all_exercises
        minutes = self._recipe.minutes
        return by_data if minutes is None else max(by_data, self._progress.seconds / (60 * minutes))

    def _out_of_patience(self) -> bool:
        waited = self._progress.step - self._progress.best_step
        return waited >= self._recipe.patience * self._recipe.validate_every

    def _batch(self) -> Iterator[EncodedLesson]:
        """The lessons of a step; `_learned_from` must be told of them when they have all been taken."""
        progress, size, count = self._progress, 0, 0
        while size < self._recipe.batch:
            order = random.Random(f"{self._recipe.seed} {progress.epoch}").sample(
                range(len(self._lessons)), len(self._lessons)
            )
            lesson = self._lessons[order[progress.place]]
            progress.place += 1
            if progress.place == len(order):
                progress.epoch, progress.place = progress.epoch + 1, 0
            size += self._size(lesson)
            count += lesson.count
            yield lesson
            if progress.exercises + count >= self._all_exercises:
                return

    def _learned_from(self, lessons: Sequence[EncodedLesson]) -> None:
        self._progress.exercises += sum(lesson.count for lesson in lessons)
        self._progress.tokens += sum(len(lesson.token_ids) for lesson in lessons)

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: exact.detach().clone() for name, exact in self._exact.items()}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        found = self._assess(self._validation)
        progress = self._progress
        progress.curve.append((progress.step, found))
        if found["all"] < progress.best:
            progress.best, progress.best_step = found["all"], progress.step
            self._best = self._state()
        return found

    def _save(self) -> None:
        part = self._checkpoint.with_name(f"{self._checkpoint.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        progress = {name: getattr(self._progress, name) for name in self._progress.__dataclass_fields__}
        torch.save(
            {
                "identity": self._identity,
                "progress": progress,
                "exact": self._exact,
                "best": self._best,
                "optimizer": self._optimizer.state_dict(),
                "random": torch.get_rng_state(),
            },
            part,
        )
        part.replace(self._checkpoint)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        found: dict[str, Any] = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        if found["identity"] != self._identity:
            raise InvalidRecipe(
                f"{self._checkpoint} is of another recipe, other lessons or another model ({found['identity']});"
                f" expected {self._identity}; delete it, or train under another name"
            )
        self._progress = replace(_Progress(), **found["progress"])
        self._best = found["best"]
        with torch.no_grad():
            for name, exact in self._exact.items():
                exact.copy_(found["exact"][name])
        self._use(self._exact)
        self._optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["random"].cpu())


def check_lessons(
    lessons: Sequence[EncodedLesson], validation: Sequence[EncodedLesson], recipe: CourseRecipe
) -> None:
    """Raise InvalidLessons where there is nothing to learn from, or nothing to validate with."""
    for name, some in (("lessons", lessons), ("validation lessons", validation)):
        if not some:
            raise InvalidLessons(f"no {name} of at most {recipe.longest} tokens; expected at least one")


def result(learned: Learned, curve: tuple[str, ...] = ("all",)) -> dict[str, Any]:
    """What a course came to, for a card; of each validation what `curve` names."""
    found = dict(learned.curve)
    return {
        "loss_before": learned.curve[0][1],
        "loss": found[learned.best_step],
        "best_step": learned.best_step,
        "steps": learned.steps,
        "exercises": learned.exercises,
        "tokens": learned.tokens,
        "seconds": round(learned.seconds, 1),
        "peak_gpu_bytes": learned.peak_bytes,
        "curve": [[step, *(round(one[name], 4) for name in curve)] for step, one in learned.curve],
    }


def _digest(lessons: Sequence[EncodedLesson]) -> str:
    """The same for the same lessons in the same order."""
    digest = hashlib.sha256()
    for lesson in lessons:
        for array in (lesson.token_ids, lesson.positions, lesson.rows):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
