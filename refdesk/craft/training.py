"""Training an adapter: LoRA on every linear layer, on lessons one after the other, resumable after any kill."""

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from refdesk.craft.attention import LessonAttention
from refdesk.craft.encoding import EncodedLesson
from refdesk.craft.errors import InvalidLessons, InvalidRecipe
from refdesk.craft.recipe import TrainingRecipe
from refdesk.reader.model import ReaderModel

_CLIP = 1.0  # of the gradient's norm
_FLOOR = 0.1  # of the learning rate, at the end
_SAVE_S = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """How far training is. `loss`: nats per token, of what this step learned from. `losses`: mean negative
    log-likelihood of the answers (each the mean of its tokens), by the reading of their lessons, where the step
    ended with a validation. `left_s`: seconds to go, at the speed so far."""

    step: int
    share: float
    loss: float
    seconds: float
    left_s: float
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`state`: the adapter's weights at its best, in float32, by name. `curve`: every validation, `(step, loss)`,
    the first of the base model. `steps`, `exercises`, `tokens`: learned from. `peak_bytes`: of GPU memory, 0 on a
    CPU."""

    state: dict[str, torch.Tensor]
    config: LoraConfig
    curve: tuple[tuple[int, dict[str, float]], ...]
    best_step: int
    steps: int
    exercises: int
    tokens: int
    seconds: float
    peak_bytes: int


Report = Callable[[Step], None]
"""Called after every step; it raises what stops the training, which goes on from there when it is called again."""


def train(
    model: ReaderModel,
    lessons: Sequence[EncodedLesson],
    validation: Sequence[EncodedLesson],
    recipe: TrainingRecipe,
    checkpoint: Path,
    report: Report = lambda step: None,
) -> Outcome:
    """Train an adapter for `model`, which must be loaded to be trained and is changed. What `checkpoint` holds of
    an earlier call with the same recipe is gone on with; it is left behind, for the caller to delete.

    Raises:
        InvalidLessons: there is nothing to train on, or nothing to validate with.
        InvalidRecipe: the checkpoint is of another recipe, other lessons or another model.
    """
    for name, some in (("lessons", lessons), ("validation lessons", validation)):
        if not some:
            raise InvalidLessons(f"no {name} of at most {recipe.longest} tokens; expected at least one")
    training = _Training(model, lessons, validation, recipe, checkpoint)
    try:
        return training.run(report)
    finally:
        training.attention.close()


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


class _Training:
    def __init__(
        self,
        model: ReaderModel,
        lessons: Sequence[EncodedLesson],
        validation: Sequence[EncodedLesson],
        recipe: TrainingRecipe,
        checkpoint: Path,
    ) -> None:
        self._lessons, self._validation = lessons, validation
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._device = model.device
        torch.manual_seed(recipe.seed)
        self._config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        if recipe.checkpointing:
            model.model.activation_checkpointing_enable({"use_reentrant": False})
            model.model.train()
        # In the model's own numbers: products of mixed numbers are slow. The exact weights are kept beside.
        self._peft: Any = get_peft_model(model.model, self._config, autocast_adapter_dtype=False)
        self.attention = LessonAttention(model.model)
        self._weights = {name: p for name, p in self._peft.named_parameters() if p.requires_grad}
        self._exact = {name: p.detach().float().clone() for name, p in self._weights.items()}
        for exact in self._exact.values():
            exact.grad = torch.zeros_like(exact)
        self._optimizer = torch.optim.AdamW(self._exact.values(), weight_decay=recipe.weight_decay)
        self._best = self._state()
        self._progress = _Progress()
        exercises = sum(lesson.count for lesson in lessons)
        self._all_exercises = exercises * recipe.epochs
        self._identity = f"{recipe} {model.fingerprint} {_digest((*lessons, *validation))}"

    def run(self, report: Report) -> Outcome:
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
            losses = {}
            if validates:  # no time passes else, or the minutes might be over behind the last validation
                losses = self._validate()
                progress.seconds = perf_counter() - started
            if validates or perf_counter() - saved > _SAVE_S:
                self._save()
                saved = perf_counter()
            share = min(self._share(), 1.0)
            left = progress.seconds / share * (1 - share)
            report(Step(progress.step, share, loss, progress.seconds, left, losses))
        cuda = self._device.type == "cuda"
        return Outcome(
            state={_saved_name(name): tensor.cpu() for name, tensor in self._best.items()},
            config=self._config,
            curve=tuple(progress.curve),
            best_step=progress.best_step,
            steps=progress.step,
            exercises=progress.exercises,
            tokens=progress.tokens,
            seconds=progress.seconds,
            peak_bytes=torch.cuda.max_memory_allocated() if cuda else 0,
        )

    def _share(self) -> float:
        """Of the training, what is done."""
        by_data = self._progress.exercises / self._all_exercises
        minutes = self._recipe.minutes
        return by_data if minutes is None else max(by_data, self._progress.seconds / (60 * minutes))

    def _out_of_patience(self) -> bool:
        waited = self._progress.step - self._progress.best_step
        return waited >= self._recipe.patience * self._recipe.validate_every

    def _step(self, share: float) -> float:
        """Learn from the next lessons, of `batch` exercises or a few more. The mean loss of a token.

        All tokens weigh alike: were it all exercises, the word with which a long answer begins would weigh less
        than that of a short one, and a model that can quote or abstain would learn to abstain.
        """
        self._peft.train()
        for exact in self._exact.values():
            exact.grad.zero_()
        total, learned, exercises = 0.0, 0, 0
        for lesson in self._batch():
            loss = self._nll(lesson).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            self._collect()
            total += loss.item()
            learned += len(lesson.targets)
            exercises += lesson.count
            self._progress.tokens += len(lesson.token_ids)
        self._progress.exercises += exercises
        for exact in self._exact.values():
            exact.grad /= learned
        torch.nn.utils.clip_grad_norm_(self._exact.values(), _CLIP)
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * _height(share, self._recipe.warmup)
        self._optimizer.step()
        self._use(self._exact)
        return total / learned

    def _batch(self) -> Iterator[EncodedLesson]:
        progress, count = self._progress, 0
        while count < self._recipe.batch:
            order = random.Random(f"{self._recipe.seed} {progress.epoch}").sample(
                range(len(self._lessons)), len(self._lessons)
            )
            lesson = self._lessons[order[progress.place]]
            progress.place += 1
            if progress.place == len(order):
                progress.epoch, progress.place = progress.epoch + 1, 0
            count += lesson.count
            yield lesson
            if progress.exercises + count >= self._all_exercises:
                return

    def _nll(self, lesson: EncodedLesson) -> torch.Tensor:
        """Of each supervised token its negative log-likelihood, `[supervised]`."""
        self.attention.read(lesson)
        ids, positions, rows, targets = (
            torch.from_numpy(array).to(self._device)
            for array in (lesson.token_ids, lesson.positions, lesson.rows, lesson.targets)
        )
        output = self._peft(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=rows
        )
        return torch.nn.functional.cross_entropy(output.logits[0].float(), targets, reduction="none")

    def _collect(self) -> None:
        """Add up gradients where small ones are not lost."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                self._exact[name].grad += weight.grad
                weight.grad = None

    @torch.no_grad()
    def _use(self, state: dict[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(state[name])

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: exact.detach().clone() for name, exact in self._exact.items()}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self._peft.eval()
        losses: dict[str, list[float]] = {}
        for lesson in self._validation:
            reading = "apart" if (lesson.groups > 0).any() else "together"
            sums = np.bincount(lesson.exercises, self._nll(lesson).cpu())
            losses.setdefault(reading, []).extend((sums / np.bincount(lesson.exercises)).tolist())
        every = [loss for some in losses.values() for loss in some]
        means = {"all": sum(every) / len(every), **{name: sum(some) / len(some) for name, some in losses.items()}}
        progress = self._progress
        progress.curve.append((progress.step, means))
        if means["all"] < progress.best:
            progress.best, progress.best_step = means["all"], progress.step
            self._best = self._state()
        return means

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
        found = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
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


def _height(share: float, warmup: float) -> float:
    """Of the learning rate: up in a line, down as a cosine."""
    if share < warmup:
        return max(share, 0.01 * warmup) / warmup
    return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * (share - warmup) / max(1 - warmup, 1e-9))) / 2


def _digest(lessons: Sequence[EncodedLesson]) -> str:
    """The same for the same lessons in the same order."""
    digest = hashlib.sha256()
    for lesson in lessons:
        for array in (lesson.token_ids, lesson.positions, lesson.rows):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _saved_name(name: str) -> str:
    """As peft names it in a file."""
    return name.replace(".default.", ".")
