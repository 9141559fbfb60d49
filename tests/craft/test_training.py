"""Training on tiny models with the real peft: what a step learns, and that no kill changes what is learned."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from refdesk.craft.answering import _height
from refdesk.craft.course import Step
from refdesk.craft.encoding import EncodedLesson, encode_lesson
from refdesk.craft.errors import InvalidLessons, InvalidRecipe
from refdesk.craft.recipe import TrainingRecipe
from refdesk.craft.training import LoraCourse, Outcome, train
from refdesk.reader.adapter import Adapter
from refdesk.reader.model import ReaderModel
from tests.craft.worlds import Killed, lesson, telling
from tests.reader.in_line import plain_attention

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning"),
]

Fresh = Callable[..., ReaderModel]
RECIPE = TrainingRecipe(rank=4, alpha=8.0, learning_rate=3e-3, batch=4, epochs=3, validate_every=2)


def lessons_of(model: ReaderModel, count: int = 4, first: int = 0) -> list[EncodedLesson]:
    """Of all readings and sizes; 3, 2, 1, 3, ... exercises."""
    readings = ("together", "apart")
    return [
        encode_lesson(lesson(readings[n % 2], n % 4, 3 - n % 3, first + n), model)  # type: ignore[arg-type]
        for n in range(count)
    ]


def trained(
    fresh: Fresh,
    folder: Path,
    recipe: TrainingRecipe,
    kind: str = "llama",
    dtype: torch.dtype = torch.float32,
    kill_at: int | None = None,
) -> tuple[Outcome, list[Step]]:
    """From the base model on, as a new process would; its steps."""
    model = fresh(kind, dtype)
    told, report = telling(kill_at)
    lessons, validation = lessons_of(model), lessons_of(model, 3, first=20)
    return train(model, lessons, validation, recipe, folder / "checkpoint.pt", report), told


def with_adapter(model: ReaderModel, outcome: Outcome) -> Any:
    """A peft model that has what was trained."""
    adapted = get_peft_model(model.model, outcome.config, autocast_adapter_dtype=False)
    set_peft_model_state_dict(adapted, outcome.state)
    return adapted.eval()


def plain_nll(model: Any, encoded: EncodedLesson) -> torch.Tensor:
    """Of each supervised token the negative log-likelihood, with plain attention and the whole mask."""
    branches = torch.from_numpy(encoded.groups < 0)
    ids, positions = (torch.from_numpy(a)[None] for a in (encoded.token_ids, encoded.positions))
    with plain_attention(model, torch.from_numpy(encoded.mask()), torch.from_numpy(encoded.shifts), branches):
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    return -torch.log_softmax(logits, dim=-1)[encoded.rows, encoded.targets]


def plain_losses(model: Any, encoded: EncodedLesson) -> torch.Tensor:
    """The mean of each exercise."""
    nll, numbers = plain_nll(model, encoded), torch.from_numpy(encoded.exercises)
    return torch.stack([nll[numbers == number].mean() for number in range(encoded.count)])


def plain_mean(model: Any, lessons: list[EncodedLesson]) -> float:
    with torch.no_grad():
        return float(torch.cat([plain_losses(model, one) for one in lessons]).mean())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_base_model_is_where_it_begins(kind: str, fresh: Fresh, tmp_path: Path) -> None:
    outcome, _ = trained(fresh, tmp_path, replace(RECIPE, epochs=0.5), kind)
    model = fresh(kind)
    validation = lessons_of(model, 3, first=20)
    step, losses = outcome.curve[0]
    assert step == 0
    assert losses["all"] == pytest.approx(plain_mean(model.model, validation), abs=1e-5)
    # The second is read apart; the first has no passages, which is no way of reading them apart.
    assert losses["apart"] == pytest.approx(plain_mean(model.model, validation[1:2]), abs=1e-5)
    assert losses["together"] == pytest.approx(plain_mean(model.model, [validation[0], validation[2]]), abs=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_every_linear_layer_learns_as_many_numbers_as_its_rank_and_sides_make(
    rank: int, fresh: Fresh, tmp_path: Path
) -> None:
    outcome, _ = trained(fresh, tmp_path, replace(RECIPE, rank=rank, epochs=0.01))
    layer = 64 + 64 + 2 * (64 + 32) + 64 + 64 + 3 * (64 + 96)  # q, k and v, o, the three of the MLP
    assert sum(tensor.numel() for tensor in outcome.state.values()) == 3 * layer * rank
    assert len(outcome.state) == 3 * 7 * 2
    assert {tensor.dtype for tensor in outcome.state.values()} == {torch.float32}


@pytest.mark.parametrize(("alpha", "checkpointing"), [(8.0, False), (8.0, True), (0.04, False)])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_step_follows_the_gradient_of_the_mean_over_its_tokens(
    kind: str, alpha: float, checkpointing: bool, fresh: Fresh, tmp_path: Path
) -> None:
    model, other = fresh(kind), fresh(kind)
    lessons = lessons_of(model)
    exercises = sum(one.count for one in lessons)
    recipe = replace(RECIPE, alpha=alpha, batch=exercises, epochs=1, checkpointing=checkpointing)
    training = LoraCourse(model, lessons, lessons, recipe, tmp_path / "none")
    torch.manual_seed(recipe.seed)
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    plain: Any = get_peft_model(other.model, config)
    weights = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # else nothing would reach A: B begins with zeros
        for name, exact in training._exact.items():
            assert torch.equal(exact, weights[name])
            weights[name] += 0.05 * torch.randn(exact.shape, generator=generator)
            exact.copy_(weights[name])
    training._use(training._exact)
    loss = torch.cat([plain_nll(plain, one) for one in lessons]).mean()
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert (norm > 1) == (alpha == 8.0)  # what is longer is cut to that
    assert training._step(0.0) == pytest.approx(loss.item(), abs=1e-5)
    for name, exact in training._exact.items():
        expected = gradients[name] / norm.clamp(min=1)
        torch.testing.assert_close(exact.grad, expected, atol=2e-6 + 1e-4 * float(expected.abs().max()), rtol=1e-4)
    # AdamW's first step is as high as the learning rate, whatever the gradient; warm-up begins with a hundredth.
    moved = max((exact - weights[name]).abs().max().item() for name, exact in training._exact.items())
    assert moved == pytest.approx(0.01 * recipe.learning_rate, rel=0.02)
    training.close()


def test_it_learns_a_handful_of_lessons_by_heart(fresh: Fresh, tmp_path: Path) -> None:
    model = fresh()
    lessons = lessons_of(model)
    recipe = replace(RECIPE, rank=16, alpha=32.0, learning_rate=1e-2, epochs=20, validate_every=10)
    outcome = train(model, lessons, lessons, recipe, tmp_path / "checkpoint.pt")
    (_, before), *_, (_, after) = outcome.curve
    assert after["all"] < before["all"] / 2
    # What came back says it too, on another copy of the base model and with its own attention.
    other = fresh()
    best = min(losses["all"] for _, losses in outcome.curve)
    assert plain_mean(with_adapter(other, outcome), lessons) == pytest.approx(best, abs=1e-4)
    # Each lesson was learned from as often as there were epochs.
    assert outcome.exercises == 20 * sum(one.count for one in lessons)
    assert outcome.tokens == 20 * sum(len(one.token_ids) for one in lessons)


def test_every_epoch_has_every_lesson_once_in_an_order_of_its_own(fresh: Fresh, tmp_path: Path) -> None:
    model = fresh()
    lessons = [one for n in range(6) for one in lessons_of(model, 1, first=n)]
    training = LoraCourse(model, lessons, lessons, replace(RECIPE, batch=1, epochs=5), tmp_path / "none")
    orders = []
    for _ in range(5):
        seen = []
        for _ in lessons:
            (one,) = training._batch()
            training._progress.exercises += one.count
            seen.append(next(i for i, other in enumerate(lessons) if other is one))
        orders.append(seen)
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert training._share() == 1
    training.close()


@pytest.mark.parametrize(("dropout", "dtype"), [(0.0, torch.float32), (0.3, torch.float32), (0.0, torch.bfloat16)])
@pytest.mark.parametrize("kill_at", [1, 2, 3, 5])
def test_killed_and_gone_on_with_is_never_killed(
    kill_at: int, dropout: float, dtype: torch.dtype, fresh: Fresh, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, dropout=dropout)
    whole, steps = trained(fresh, tmp_path / "whole", recipe, dtype=dtype)
    assert len(steps) == whole.steps > 5
    with pytest.raises(Killed):
        trained(fresh, tmp_path / "parts", recipe, dtype=dtype, kill_at=kill_at)
    torch.manual_seed(99)  # another process
    parts, rest = trained(fresh, tmp_path / "parts", recipe, dtype=dtype)
    saved = kill_at - kill_at % 2  # with the last validation
    assert [step.step for step in rest] == list(range(saved + 1, whole.steps + 1))
    assert [(one.loss, one.validation) for one in rest] == [(one.loss, one.validation) for one in steps[saved:]]
    assert_same(parts, whole)


def assert_same(one: Outcome, other: Outcome) -> None:
    """Bit for bit, but for the time."""
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(one.state[name], tensor) for name, tensor in other.state.items())
    assert (one.curve, one.best_step) == (other.curve, other.best_step)
    assert (one.steps, one.exercises, one.tokens) == (other.steps, other.exercises, other.tokens)


def as_adapter(outcome: Outcome, recipe: TrainingRecipe) -> Adapter:
    """What was trained, as it is loaded."""
    scale = recipe.alpha / recipe.rank
    pairs = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): (
            a,
            outcome.state[name.replace("lora_A", "lora_B")] * scale,
        )
        for name, a in outcome.state.items()
        if "lora_A" in name
    }
    return Adapter("first", "0123", "tiny", "4567", pairs)


def test_it_begins_where_another_training_ended(fresh: Fresh, tmp_path: Path) -> None:
    first, _ = trained(fresh, tmp_path / "first", RECIPE)
    model = fresh()
    some = (lessons_of(model), lessons_of(model, 3, first=20))
    recipe = replace(RECIPE, alpha=4.0, seed=5)
    second = train(model, *some, recipe, tmp_path / "second.pt", start=as_adapter(first, RECIPE))
    assert second.curve[0][1] == pytest.approx(dict(first.curve)[first.best_step], abs=1e-5)
    with pytest.raises(InvalidRecipe, match="another recipe, other lessons or another model"):
        train(fresh(), *some, recipe, tmp_path / "second.pt")


def test_it_does_not_begin_with_an_adapter_of_another_rank(fresh: Fresh, tmp_path: Path) -> None:
    first, _ = trained(fresh, tmp_path / "first", replace(RECIPE, epochs=0.01))
    model = fresh()
    recipe = replace(RECIPE, rank=8)
    with pytest.raises(InvalidRecipe, match=r"'first', which has rank 4 at .*expected a layer .* and rank 8"):
        train(model, lessons_of(model), lessons_of(model), recipe, tmp_path / "x", start=as_adapter(first, RECIPE))


def test_killed_at_every_step_it_still_ends_the_same(fresh: Fresh, tmp_path: Path) -> None:
    recipe = replace(RECIPE, validate_every=1)
    whole, _ = trained(fresh, tmp_path / "whole", recipe)
    for step in range(1, whole.steps + 1):
        with pytest.raises(Killed):
            trained(fresh, tmp_path / "parts", recipe, kill_at=step)
    parts, rest = trained(fresh, tmp_path / "parts", recipe)
    assert rest == []
    assert_same(parts, whole)
    assert [one.name for one in (tmp_path / "parts").iterdir()] == ["checkpoint.pt"]


def test_in_bfloat16_what_is_too_small_for_it_is_learned_all_the_same(fresh: Fresh, tmp_path: Path) -> None:
    model = fresh("llama", torch.bfloat16)
    lessons = lessons_of(model)
    recipe = replace(RECIPE, learning_rate=1e-5, warmup=0.0)
    training = LoraCourse(model, lessons, lessons, recipe, tmp_path / "none")
    before = {name: exact.clone() for name, exact in training._exact.items()}
    for _ in range(3):
        training._step(0.0)
    stood_still = moved = 0
    for name, exact in training._exact.items():
        weight = training._weights[name]
        assert (exact.dtype, weight.dtype) == (torch.float32, torch.bfloat16)
        assert torch.equal(weight, exact.bfloat16())  # what is computed with is what is kept, rounded
        moved += int((exact != before[name]).sum())
        stood_still += int(((exact != before[name]) & (weight == before[name])).sum())
    assert stood_still > 0.3 * moved > 1000
    training.close()


def test_a_checkpoint_of_something_else_is_refused(fresh: Fresh, tmp_path: Path) -> None:
    trained(fresh, tmp_path, RECIPE)
    with pytest.raises(InvalidRecipe, match=r"checkpoint\.pt is of another recipe.*delete it"):
        trained(fresh, tmp_path, replace(RECIPE, learning_rate=1e-4))
    path = tmp_path / "checkpoint.pt"
    for change in ("lessons", "validation", "model"):
        model = fresh()
        lessons, validation = lessons_of(model), lessons_of(model, 3, first=20)
        if change == "model":
            model = replace(model, fingerprint="another")
        else:  # as many, of as many tokens
            changed = lessons if change == "lessons" else validation
            changed.reverse()
        with pytest.raises(InvalidRecipe, match="another recipe, other lessons or another model"):
            train(model, lessons, validation, RECIPE, path)
        assert "lesson" not in model.model.config._attn_implementation


def test_patience_ends_it_and_the_best_comes_back(fresh: Fresh, tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=1.0, warmup=0.0, epochs=50, validate_every=1, patience=3)
    outcome, steps = trained(fresh, tmp_path, recipe)
    losses = [one["all"] for _, one in outcome.curve]
    assert [step for step, _ in outcome.curve] == list(range(outcome.steps + 1))
    assert outcome.best_step == losses.index(min(losses))
    assert outcome.steps == outcome.best_step + 3 < 50
    assert steps[-1].share < 0.5
    model = fresh()
    adapted = with_adapter(model, outcome)
    assert plain_mean(adapted, lessons_of(model, 3, first=20)) == pytest.approx(min(losses), abs=1e-4)


def test_minutes_end_it_with_a_validation(fresh: Fresh, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=100, minutes=0.01, validate_every=1000, patience=1000)
    outcome, steps = trained(fresh, tmp_path, recipe)
    assert 0.6 <= outcome.seconds < 5
    assert outcome.steps == len(steps) < 225
    assert [step for step, _ in outcome.curve] == [0, outcome.steps]
    assert steps[-1].share == 1 and steps[-1].left_s == 0 and steps[-1].validation == outcome.curve[-1][1]
    assert [one.share for one in steps] == sorted(one.share for one in steps)


def test_the_learning_rate_rises_in_a_line_and_falls_as_a_cosine_to_a_tenth() -> None:
    heights = {0.0: 0.01, 0.025: 0.5, 0.05: 1.0, 0.525: 0.55, 1.0: 0.1}
    for share, expected in heights.items():
        assert _height(share, 0.05) == pytest.approx(expected)
    assert _height(0.2875, 0.05) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert _height(0.0, 0.0) == 1 and _height(1.0, 0.0) == pytest.approx(0.1)
    assert (_height(0.5, 1.0), _height(1.0, 1.0)) == (0.5, 1.0)


def test_the_steps_say_how_far_it_is(fresh: Fresh, tmp_path: Path) -> None:
    outcome, steps = trained(fresh, tmp_path, RECIPE)
    assert [one.step for one in steps] == list(range(1, outcome.steps + 1))
    for one in steps:
        assert bool(one.validation) == (one.step % 2 == 0 or one.step == outcome.steps)
    assert [0, *(one.step for one in steps if one.validation)] == [step for step, _ in outcome.curve]
    for one in steps:
        assert one.left_s == pytest.approx(one.seconds * (1 - one.share) / one.share)
    assert (steps[-1].share, steps[-1].left_s) == (1, 0)
    assert outcome.exercises == 3 * 9 and outcome.peak_bytes == 0


def test_activations_computed_twice_teach_the_same(fresh: Fresh, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    kept, _ = trained(fresh, tmp_path / "kept", recipe)
    again, _ = trained(fresh, tmp_path / "again", replace(recipe, checkpointing=True))
    assert_same(again, kept)


def test_nothing_to_learn_from_or_to_validate_with_is_refused(fresh: Fresh, tmp_path: Path) -> None:
    model = fresh()
    lessons = lessons_of(model)
    with pytest.raises(InvalidLessons, match="no lessons of at most 6144 tokens"):
        train(model, [], lessons, RECIPE, tmp_path / "checkpoint.pt")
    with pytest.raises(InvalidLessons, match="no validation lessons of at most 6144 tokens"):
        train(model, lessons, [], RECIPE, tmp_path / "checkpoint.pt")
