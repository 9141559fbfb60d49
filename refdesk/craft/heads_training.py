"""Training retaining heads (Locret, arXiv 2410.01805, section 3.2): they learn to say what answers look for.

The model is frozen and heads are shown what it computes anyway, so one forward of a lesson is all that is
needed of it. All heads learn at once, and heads of several kinds can learn from one reading.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import max_pool1d, silu, smooth_l1_loss

from refdesk.craft.course import Course, Learned, Report, check_lessons
from refdesk.craft.encoding import EncodedLesson
from refdesk.craft.importance import Importance, ImportanceReader
from refdesk.craft.recipe import HeadsRecipe
from refdesk.reader.adapter import Adapter
from refdesk.reader.heads import head_shapes
from refdesk.reader.model import ReaderModel

_BETAS = (0.9, 0.95)
_CLIP = 0.5  # of each number of the gradient
_TOP = 10  # the overlap is of one in so many tokens
_REACH = 2  # tokens on either side of a wanted one that are wanted with it: a word is several, and so is a name


def train_heads(
    model: ReaderModel,
    adapter: Adapter | None,
    lessons: Sequence[EncodedLesson],
    validation: Sequence[EncodedLesson],
    recipe: HeadsRecipe,
    checkpoint: Path,
    report: Report = lambda step: None,
) -> Learned:
    """Train heads for `model` with `adapter`. `state` of the result is `down` and `up` of RetainingHeads. What
    `checkpoint` holds of an earlier call with the same recipe is gone on with; it is left behind, for the caller
    to delete.

    Raises:
        InvalidLessons: there is nothing to train on, or nothing to validate with.
        InvalidRecipe: the checkpoint is of another recipe, other lessons, another model or adapter.
        AdapterMismatch: the adapter is of another model.
        UnsupportedAttention: the model has no rotary positions.
    """
    check_lessons(lessons, validation, recipe)
    reader = ImportanceReader(model, adapter)
    try:
        heads = LearningHeads(model, recipe)
        training = _HeadsTraining(reader, heads, lessons, validation, recipe, checkpoint, identity(model, adapter))
        training.run(report)
        return training.learned()
    finally:
        reader.close()


def identity(model: ReaderModel, adapter: Adapter | None) -> str:
    """Of those whose heads they are."""
    return model.fingerprint if adapter is None else f"{model.fingerprint} {adapter.fingerprint}"


class LearningHeads:
    """Heads while they learn: `weights` `down` `[layers, (heads + 2 * kv_heads) * head_dim, inner]` and `up`
    `[layers, inner, kv_heads]`, in float32. They begin with random numbers of the spread that the model's own
    weights began with."""

    def __init__(self, model: ReaderModel, recipe: HeadsRecipe) -> None:
        spread = getattr(model.model.config.get_text_config(), "initializer_range", 0.02)
        generator = torch.Generator().manual_seed(recipe.seed)
        shapes = head_shapes(model, recipe.inner)
        self._recipe = recipe
        # The paper's code adds up over layers where its formula has the mean.
        self._smoothing = recipe.smoothing * shapes["down"][0]
        self.weights: dict[str, Any] = {
            name: (spread * torch.randn(shape, generator=generator)).to(model.device)
            for name, shape in shapes.items()
        }
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)
        self.optimizer = torch.optim.AdamW(self.weights.values(), betas=_BETAS, weight_decay=recipe.weight_decay)

    def scores(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """`[tokens, kv_heads]` of what the heads of a layer are shown, `[tokens, …]` (see RetainingHeads)."""
        return _scores(x, *(weight[layer] for weight in self.weights.values()))

    def learn(self, lessons: Sequence[Importance], share: float) -> float:
        """A step at this share of the training, every token with the same weight; the loss before it."""
        tokens = sum(len(one.inputs[0]) for one in lessons)
        total: torch.Tensor | float = 0.0
        for one in lessons:
            weight_of_layer = len(one.inputs[0]) / tokens / len(one.inputs)
            for layer, x in enumerate(one.inputs):
                parts = [weight[layer].requires_grad_() for weight in self.weights.values()]
                loss = weight_of_layer * self._loss(_scores(x, *parts), one, layer)
                for weight, gradient in zip(self.weights.values(), torch.autograd.grad(loss, parts), strict=True):
                    weight.grad[layer] += gradient
                total += loss.detach()
        torch.nn.utils.clip_grad_value_(self.weights.values(), _CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * height(share, self._recipe.warmup)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return float(total)

    @torch.no_grad()
    def assess(self, lesson: Importance) -> tuple[float, float]:
        """The loss, and the overlap: of a tenth of the tokens, those that get the highest labels, the share that
        get the highest scores too, in the mean over layers and heads. Heads that know nothing have 0.1."""
        losses, found = [], []
        for layer, x in enumerate(lesson.inputs):
            scores = self.scores(layer, x)
            losses.append(self._loss(scores, lesson, layer).item())
            found.append(overlap(scores, self.labels(lesson, layer)))
        return sum(losses) / len(losses), sum(found) / len(found)

    def labels(self, lesson: Importance, layer: int) -> torch.Tensor:
        """What the heads of a layer are to say, `[tokens, kv_heads]`."""
        return lesson.logits[layer] if self._recipe.target == "logit" else reaching(lesson.shares[layer])

    def _loss(self, scores: torch.Tensor, lesson: Importance, layer: int) -> torch.Tensor:
        labels = self.labels(lesson, layer)
        if self._recipe.target == "logit":
            return heads_loss(scores, labels, lesson.adjoin, self._smoothing)
        return divergence(scores, labels)


class _HeadsTraining(Course):
    """Validation: the loss, and the overlap, of all and by the kind of the lesson; each lesson counts the same."""

    def __init__(
        self,
        reader: ImportanceReader,
        heads: LearningHeads,
        lessons: Sequence[EncodedLesson],
        validation: Sequence[EncodedLesson],
        recipe: HeadsRecipe,
        checkpoint: Path,
        identity: str,
    ) -> None:
        self._reader, self._heads = reader, heads
        super().__init__(lessons, validation, recipe, checkpoint, heads.weights, heads.optimizer, identity)

    def _step(self, share: float) -> float:
        lessons = list(self._batch())
        loss = self._heads.learn([self._reader.read(lesson) for lesson in lessons], share)
        self._learned_from(lessons)
        return loss

    def _size(self, lesson: EncodedLesson) -> int:
        return 1

    def _assess(self, lessons: Sequence[EncodedLesson]) -> dict[str, float]:
        found = [(lesson.kind, *self._heads.assess(self._reader.read(lesson))) for lesson in lessons]
        return summary(found)


def summary(found: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """The mean loss (`all`) and overlap of lessons, and the overlap by kind, of kind, loss and overlap of each."""
    by_kind: dict[str, list[float]] = {}
    for kind, _, of_top in found:
        by_kind.setdefault(f"overlap_{kind}", []).append(of_top)
    return {
        "all": sum(loss for _, loss, _ in found) / len(found),
        "overlap": sum(of_top for _, _, of_top in found) / len(found),
        **{kind: sum(some) / len(some) for kind, some in sorted(by_kind.items())},
    }


def heads_loss(scores: torch.Tensor, labels: torch.Tensor, adjoin: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Of one layer, `scores` and `labels` `[tokens, kv_heads]`: smooth L1 in the mean, and `smoothing` times the
    mean square of the difference between neighbours, which `adjoin` `[tokens - 1]` tells."""
    steps = (scores[1:] - scores[:-1])[adjoin].square()
    return smooth_l1_loss(scores, labels) + smoothing * steps.sum() / max(steps.numel(), 1)


def divergence(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of one layer, `scores` and `labels` `[tokens, kv_heads]`, logarithms both: how far what heads would spread
    over the tokens is from what is to be spread (Kullback-Leibler, nats), in the mean over heads."""
    wanted = labels.log_softmax(dim=0)
    return (wanted.exp() * (wanted - scores.log_softmax(dim=0))).sum(dim=0).mean()


def reaching(shares: torch.Tensor) -> torch.Tensor:
    """`[tokens, kv_heads]`: of each token the highest share of those around it."""
    return max_pool1d(shares.T, 2 * _REACH + 1, stride=1, padding=_REACH).T


def overlap(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Of the tenth of the tokens with the highest labels, the share that is in the tenth with the highest scores,
    in the mean over heads; both are `[tokens, kv_heads]`."""
    count = max(len(labels) // _TOP, 1)
    chosen, right = (of.topk(count, dim=0).indices.T for of in (scores, labels))
    shared = (chosen[:, :, None] == right[:, None, :]).any(dim=-1)
    return shared.float().mean().item()


def _scores(x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return silu(x.float() @ down) @ up


def height(share: float, warmup: float) -> float:
    """Of the learning rate: up in a line, down in a line."""
    if share < warmup:
        return max(share, 0.01 * warmup) / warmup
    return (1 - share) / max(1 - warmup, 1e-9)
