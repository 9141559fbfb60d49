"""Training an adapter: LoRA on every linear layer, on lessons one after the other, resumable after any kill."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from refdesk.craft.attention import LessonAttention
from refdesk.craft.course import Course, Learned, Report, check_lessons
from refdesk.craft.encoding import EncodedLesson
from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.recipe import TrainingRecipe
from refdesk.reader.adapter import Adapter
from refdesk.reader.model import ReaderModel

_CLIP = 1.0  # of the gradient's norm
_FLOOR = 0.1  # of the learning rate, at the end


@dataclass(frozen=True, slots=True)
class Outcome(Learned):
    """An adapter. `state` has the names that peft gives weights in a file, and `config` is for them."""

    config: LoraConfig


def train(
    model: ReaderModel,
    lessons: Sequence[EncodedLesson],
    validation: Sequence[EncodedLesson],
    recipe: TrainingRecipe,
    checkpoint: Path,
    report: Report = lambda step: None,
    start: Adapter | None = None,
) -> Outcome:
    """Train an adapter for `model`, which must be loaded to be trained and is changed. It begins as `start`, if
    that is given. What `checkpoint` holds of an earlier call with the same recipe is gone on with; it is left
    behind, for the caller to delete.

    Raises:
        InvalidLessons: there is nothing to train on, or nothing to validate with.
        InvalidRecipe: the checkpoint is of another recipe, other lessons, another model or another start; or the
            start is of another rank or for other layers.
    """
    check_lessons(lessons, validation, recipe)
    training = _Training(model, lessons, validation, recipe, checkpoint, start)
    try:
        training.run(report)
        return training.outcome()
    finally:
        training.attention.close()


class _Training(Course):
    """Validation is the mean negative log-likelihood of the answers, each the mean of its tokens: of all, and by
    the reading of their lessons."""

    def __init__(
        self,
        model: ReaderModel,
        lessons: Sequence[EncodedLesson],
        validation: Sequence[EncodedLesson],
        recipe: TrainingRecipe,
        checkpoint: Path,
        start: Adapter | None = None,
    ) -> None:
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
        self.attention = LessonAttention(model.model, model.rotation)
        self._weights = {name: p for name, p in self._peft.named_parameters() if p.requires_grad}
        exact = {name: p.detach().float().clone() for name, p in self._weights.items()}
        identity = model.fingerprint
        if start is not None:
            _copy(start, exact, recipe)
            identity = f"{identity} {start.fingerprint}"
        for weight in exact.values():
            weight.grad = torch.zeros_like(weight)
        optimizer = torch.optim.AdamW(exact.values(), weight_decay=recipe.weight_decay)
        super().__init__(lessons, validation, recipe, checkpoint, exact, optimizer, identity)
        self._use(exact)

    def outcome(self) -> Outcome:
        """What it came to."""
        learned = self.learned()
        values = {field.name: getattr(learned, field.name) for field in fields(learned)}
        values["state"] = {_saved_name(name): tensor for name, tensor in learned.state.items()}
        return Outcome(**values, config=self._config)

    def _step(self, share: float) -> float:
        """Learn from the next lessons, of `batch` exercises or a few more. The mean loss of a token.

        All tokens weigh alike: were it all exercises, the word with which a long answer begins would weigh less
        than that of a short one, and a model that can quote or abstain would learn to abstain.
        """
        self._peft.train()
        for exact in self._exact.values():
            exact.grad.zero_()
        total, learned = 0.0, 0
        lessons = list(self._batch())
        for lesson in lessons:
            loss = self._nll(lesson).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            self._collect()
            total += loss.item()
            learned += len(lesson.targets)
        self._learned_from(lessons)
        for exact in self._exact.values():
            exact.grad /= learned
        torch.nn.utils.clip_grad_norm_(self._exact.values(), _CLIP)
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * _height(share, self._recipe.warmup)
        self._optimizer.step()
        self._use(self._exact)
        return total / learned

    def _size(self, lesson: EncodedLesson) -> int:
        return lesson.count

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
    def _use(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(state[name])

    def _assess(self, lessons: Sequence[EncodedLesson]) -> dict[str, float]:
        self._peft.eval()
        losses: dict[str, list[float]] = {}
        for lesson in lessons:
            reading = "apart" if (lesson.groups > 0).any() else "together"
            sums = np.bincount(lesson.exercises, self._nll(lesson).cpu())
            losses.setdefault(reading, []).extend((sums / np.bincount(lesson.exercises)).tolist())
        every = [loss for some in losses.values() for loss in some]
        return {"all": sum(every) / len(every), **{name: sum(some) / len(some) for name, some in losses.items()}}


def _height(share: float, warmup: float) -> float:
    """Of the learning rate: up in a line, down as a cosine."""
    if share < warmup:
        return max(share, 0.01 * warmup) / warmup
    return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * (share - warmup) / max(1 - warmup, 1e-9))) / 2


def _copy(start: Adapter, exact: dict[str, torch.Tensor], recipe: TrainingRecipe) -> None:
    """Have the weights begin as those of an adapter."""
    for path, (a, b) in start.pairs.items():
        for half, values in (("A", a), ("B", b / (recipe.alpha / recipe.rank))):
            weight = exact.get(f"base_model.model.{path}.lora_{half}.default.weight")
            if weight is None or weight.shape != values.shape:
                raise InvalidRecipe(
                    f"the training begins with adapter {start.name!r}, which has rank {len(a)} at {path}; expected"
                    f" a layer that is trained, and rank {recipe.rank}"
                )
            weight.copy_(values)


def _saved_name(name: str) -> str:
    """As peft names it in a file."""
    return name.replace(".default.", ".")
