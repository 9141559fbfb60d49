"""A course in answering: the weights of a model, or some added to it, learn the answers of lessons."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refdesk.craft.attention import LessonAttention
from refdesk.craft.course import Course
from refdesk.craft.encoding import EncodedLesson
from refdesk.craft.recipe import TrainingRecipe
from refdesk.reader.model import ReaderModel

_CLIP = 1.0  # of the gradient's norm
_FLOOR = 0.1  # of the learning rate, at the end


class AnswerCourse(Course):
    """`model` is changed, and its attention is the course's until `close()`. What learns is a subclass's to say.
    Validation is the mean negative log-likelihood of the answers, each the mean of
    its tokens: of all, and by the reading of their lessons."""

    def __init__(
        self,
        model: ReaderModel,
        lessons: Sequence[EncodedLesson],
        validation: Sequence[EncodedLesson],
        recipe: TrainingRecipe,
        checkpoint: Path,
        identity: str = "",
    ) -> None:
        if recipe.checkpointing:
            model.model.activation_checkpointing_enable({"use_reentrant": False})
            model.model.train()
        self._network = self._learning(model, recipe)
        self._weights = {name: p for name, p in self._network.named_parameters() if p.requires_grad}
        # In the model's own numbers: products of mixed numbers are slow. The exact weights are kept beside.
        exact = {name: p.detach().float().clone() for name, p in self._weights.items()}
        self._begin(exact, recipe)
        for weight in exact.values():
            weight.grad = torch.zeros_like(weight)
        optimizer = torch.optim.AdamW(exact.values(), weight_decay=recipe.weight_decay)
        identity = f"{model.fingerprint} {identity}".strip()
        super().__init__(lessons, validation, recipe, checkpoint, exact, optimizer, identity)
        self._attention = LessonAttention(model.model, model.rotation)
        self._use(exact)

    def close(self) -> None:
        """Give the model its own attention back."""
        self._attention.close()

    @abstractmethod
    def _learning(self, model: ReaderModel, recipe: TrainingRecipe) -> Any:
        """The network as it is trained; of its weights those learn that ask for a gradient."""

    def _begin(self, exact: dict[str, torch.Tensor], recipe: TrainingRecipe) -> None:
        """Have the weights begin as others."""

    def _step(self, share: float) -> float:
        """Learn from the next lessons, of `batch` exercises or a few more. The mean loss of a token.

        All tokens weigh alike: were it all exercises, the word with which a long answer begins would weigh less
        than that of a short one, and a model that can quote or abstain would learn to abstain.
        """
        self._network.train()
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
        self._attention.read(lesson)
        ids, positions, rows, targets = (
            torch.from_numpy(array).to(self._device)
            for array in (lesson.token_ids, lesson.positions, lesson.rows, lesson.targets)
        )
        output = self._network(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=rows
        )
        return torch.nn.functional.cross_entropy(output.logits[0].float(), targets, reduction="none")

    @torch.no_grad()
    def losses(self, lesson: EncodedLesson) -> list[float]:
        """Of each exercise, the mean negative log-likelihood of its answer's tokens."""
        self._network.eval()
        sums = np.bincount(lesson.exercises, self._nll(lesson).cpu())
        means: list[float] = (sums / np.bincount(lesson.exercises)).tolist()
        return means

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
        losses: dict[str, list[float]] = {}
        for lesson in lessons:
            losses.setdefault(lesson.kind, []).extend(self.losses(lesson))
        every = [loss for some in losses.values() for loss in some]
        return {"all": sum(every) / len(every), **{name: sum(some) / len(some) for name, some in losses.items()}}


def _height(share: float, warmup: float) -> float:
    """Of the learning rate: up in a line, down as a cosine."""
    if share < warmup:
        return max(share, 0.01 * warmup) / warmup
    return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * (share - warmup) / max(1 - warmup, 1e-9))) / 2
