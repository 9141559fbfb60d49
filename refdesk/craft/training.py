"""Training an adapter: LoRA on every linear layer, on lessons one after the other, resumable after any kill."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from refdesk.craft.answering import AnswerCourse
from refdesk.craft.course import Learned, Report, check_lessons
from refdesk.craft.encoding import EncodedLesson
from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.recipe import TrainingRecipe
from refdesk.reader.adapter import Adapter
from refdesk.reader.model import ReaderModel


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
    training = LoraCourse(model, lessons, validation, recipe, checkpoint, start)
    try:
        training.run(report)
        return training.outcome()
    finally:
        training.close()


class LoraCourse(AnswerCourse):
    """LoRA (arXiv 2106.09685) by peft."""

    def __init__(
        self,
        model: ReaderModel,
        lessons: Sequence[EncodedLesson],
        validation: Sequence[EncodedLesson],
        recipe: TrainingRecipe,
        checkpoint: Path,
        start: Adapter | None = None,
    ) -> None:
        self._start = start
        super().__init__(
            model, lessons, validation, recipe, checkpoint, "" if start is None else start.fingerprint
        )

    def _learning(self, model: ReaderModel, recipe: TrainingRecipe) -> Any:
        torch.manual_seed(recipe.seed)
        self._config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model.model, self._config, autocast_adapter_dtype=False)

    def _begin(self, exact: dict[str, torch.Tensor], recipe: TrainingRecipe) -> None:
        if self._start is not None:
            _copy(self._start, exact, recipe)

    def outcome(self) -> Outcome:
        """What it came to."""
        learned = self.learned()
        values = {field.name: getattr(learned, field.name) for field in fields(learned)}
        values["state"] = {_saved_name(name): tensor for name, tensor in learned.state.items()}
        return Outcome(**values, config=self._config)


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
