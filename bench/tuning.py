"""Ways of training at equal time: LoRA of several ranks against all weights, and what the lessons must have.

`python -m bench.tuning LESSONS [MINUTES [NAME...]]`: LESSONS is what `refdesk craft prepare` wrote. Every way
begins with the default model as it is, in a process of its own, and is asked the same held-out questions: the mean
negative log-likelihood of the answer (nats a token) by what is read and what is right. Adapters are left in
`.bench/tuning`.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.kv_memory import MODELS, head, note, row
from refdesk.craft.adapter_folder import save_adapter
from refdesk.craft.answering import AnswerCourse
from refdesk.craft.course import Step, result
from refdesk.craft.encoding import encode_lesson, encode_lessons
from refdesk.craft.errors import LessonTooLong
from refdesk.craft.lesson import Exercise, Lesson, read_lessons
from refdesk.craft.recipe import TrainingRecipe
from refdesk.craft.training import LoraCourse
from refdesk.reader.model import ReaderModel, load_model

MINUTES = 15.0
KEPT = Path(".bench/tuning")
LONGEST = 3500
LORA = TrainingRecipe(longest=LONGEST, validate_every=10**6)

Change = Callable[[Iterable[Lesson]], Iterator[Lesson]]


def as_they_are(lessons: Iterable[Lesson]) -> Iterator[Lesson]:
    """RAFT."""
    yield from lessons


def only_answerable(lessons: Iterable[Lesson]) -> Iterator[Lesson]:
    """P = 1: the passages always hold the answer."""
    for lesson in lessons:
        exercises = tuple(one for one in lesson.exercises if one.oracles or one.kind == "ask")
        if exercises:
            yield replace(lesson, exercises=exercises)


def without_distractors(lessons: Iterable[Lesson]) -> Iterator[Lesson]:
    """What the RAFT paper calls domain-specific fine-tuning: the passages that hold the answer, and no others."""
    for lesson in only_answerable(lessons):
        asked: dict[tuple[int, ...], list[Exercise]] = {}
        for one in lesson.exercises:
            asked.setdefault(one.oracles, []).append(replace(one, oracles=tuple(range(len(one.oracles)))))
        for oracles, exercises in asked.items():
            passages = tuple(lesson.passages[number] for number in oracles) or lesson.passages
            yield replace(lesson, passages=passages, exercises=tuple(exercises))


class FullTuning(AnswerCourse):
    """All weights learn."""

    def _learning(self, model: ReaderModel, recipe: TrainingRecipe) -> Any:
        torch.manual_seed(recipe.seed)
        return model.model.requires_grad_(True)


# How it is called: what learns, how, from which lessons.
WAYS: dict[str, tuple[type[AnswerCourse], TrainingRecipe, Change]] = {
    "LoRA, rank 16": (LoraCourse, LORA, as_they_are),
    "LoRA, rank 16, seed 1": (LoraCourse, replace(LORA, seed=1), as_they_are),
    "LoRA, rank 4": (LoraCourse, replace(LORA, rank=4, alpha=8.0), as_they_are),
    "LoRA, rank 64": (LoraCourse, replace(LORA, rank=64, alpha=128.0), as_they_are),
    "all weights": (FullTuning, replace(LORA, learning_rate=5e-5), as_they_are),
    "all weights, rate x 4": (FullTuning, replace(LORA, learning_rate=2e-4), as_they_are),
    "LoRA, P = 1": (LoraCourse, LORA, only_answerable),
    "LoRA, no distractors": (LoraCourse, LORA, without_distractors),
}
KINDS = ("gold alone", "2 to 5 passages", "6 and more", "cannot be found", "quoted")


def kind_of(exercise: Exercise, passages: int) -> str:
    """In which column it counts."""
    if not exercise.oracles:
        return "cannot be found"
    if exercise.form == "quote":
        return "quoted"
    return (
        "gold alone" if passages == len(exercise.oracles) else "2 to 5 passages" if passages <= 5 else "6 and more"
    )


def main(lessons: Path, minutes: float = MINUTES, names: tuple[str, ...] = tuple(WAYS)) -> None:
    """Each in a process of its own, so that its peak memory is its own."""
    print(f"{minutes:g} minutes each\n")
    head("", "exercises", "steps", "tokens/s", "GB resident, at most", *(f"{kind}: nll" for kind in KINDS))
    for name in names:
        if name not in WAYS:
            raise SystemExit(f"unknown way {name!r}; known: {', '.join(WAYS)}")
        subprocess.run(
            [sys.executable, "-m", "bench.tuning", "--one", str(lessons), str(minutes), name], check=True
        )


def measure(folder: Path, minutes: float, name: str) -> None:
    """Train in one way, and print its row."""
    kind, recipe, change = WAYS[name]
    recipe = replace(recipe, minutes=minutes)
    model = load_model(None, MODELS, packed=False)
    learned, _ = encode_lessons(change(read_lessons(folder / "lessons.jsonl")), model, recipe.longest)
    held = list(read_lessons(folder / "validation.jsonl"))
    with tempfile.TemporaryDirectory() as checkpoints:
        little, _ = encode_lessons(held[:5], model, recipe.longest)
        course = kind(model, learned, little, recipe, Path(checkpoints) / "checkpoint.pt")

        def report(step: Step) -> None:
            note(f"{name}: step {step.step}, loss {step.loss:.3f}, {step.left_s / 60:.0f} minutes left")

        course.run(report)
        outcome = course.learned()
        if isinstance(course, LoraCourse):
            card: dict[str, Any] = {"name": name, "base_name": model.name, "base_fingerprint": model.fingerprint}
            card |= {"recipe": asdict(recipe), "result": result(outcome)}
            save_adapter(KEPT / re.sub(r"\W+", "-", name), course.outcome(), card)
        losses: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for lesson in held:
            asked = [one for one in lesson.exercises if one.kind == "answer"]
            try:
                encoded = encode_lesson(replace(lesson, exercises=tuple(asked)), model) if asked else None
            except LessonTooLong:
                continue
            if encoded is not None and len(encoded.token_ids) <= LONGEST:
                for one, loss in zip(asked, course.losses(encoded), strict=True):
                    losses[kind_of(one, len(lesson.passages))].append(loss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    means = (f"{sum(some) / len(some):.3f} (n = {len(some)})" if some else "-" for some in losses.values())
    row(name, outcome.exercises, outcome.steps, f"{outcome.tokens / outcome.seconds:.0f}", f"{peak:.1f}", *means)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        measure(Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
    else:
        main(
            Path(sys.argv[1]),
            float(sys.argv[2]) if len(sys.argv) > 2 else MINUTES,
            tuple(sys.argv[3:]) or tuple(WAYS),
        )
