"""Retaining heads: how well they foresee what answers look for, and what of their recipe matters.

`python -m bench.heads LESSONS [MINUTES]`: LESSONS is what `refdesk craft prepare` wrote. Heads of every recipe
learn side by side from one reading of each lesson by the default model with its shipped adapter, so they differ in
nothing else.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from time import perf_counter

from bench.kv_memory import head, load, note, row
from refdesk.app.adapters import shipped_adapter
from refdesk.craft.encoding import EncodedLesson, encode_lessons
from refdesk.craft.heads_lessons import heads_lessons
from refdesk.craft.heads_training import LearningHeads, summary
from refdesk.craft.importance import ImportanceReader
from refdesk.craft.lesson import read_lessons
from refdesk.craft.recipe import HeadsRecipe
from refdesk.reader.adapter import load_adapter
from refdesk.reader.model import ReaderModel

MINUTES = 60.0
HELD_OUT = 40  # lessons
RECIPE = HeadsRecipe(longest=3500, learning_rate=0.002)  # as those that are shipped
RECIPES = {
    f"as it is: inner {RECIPE.inner}, target {RECIPE.target}": RECIPE,
    "inner 64": replace(RECIPE, inner=64),
    "inner 256": replace(RECIPE, inner=256),
    "target logit (the paper's)": replace(RECIPE, target="logit"),
    "target logit, smoothing 0": replace(RECIPE, target="logit", smoothing=0.0),
    "learning rate / 4": replace(RECIPE, learning_rate=RECIPE.learning_rate / 4),
}


def main(lessons: Path, minutes: float = MINUTES) -> None:
    """Train, and print what came of it at the beginning (heads at random), half-way and at the end."""
    model = load("bfloat16")
    shipped = shipped_adapter()
    adapter = None if shipped is None else load_adapter(shipped, model, "craft")
    learned, held = (_encoded(lessons / name, model) for name in ("lessons.jsonl", "validation.jsonl"))
    Random(RECIPE.seed).shuffle(learned)
    held = Random(RECIPE.seed).sample(held, min(HELD_OUT, len(held)))
    heads = {name: LearningHeads(model, recipe) for name, recipe in RECIPES.items()}
    print(
        f"{model.name}, adapter {adapter.name if adapter else 'none'}, {minutes:g} minutes, {len(held)} held out\n"
    )
    head("lessons learned", "heads", "loss", "overlap", "together", "apart", "question first")
    reader = ImportanceReader(model, adapter)
    reading = learning = 0.0
    tokens = documents = 0
    _tell(0, heads, reader, held)
    half_told = False
    for number, lesson in enumerate(learned, start=1):
        share = max(number / len(learned), (reading + learning) / (60 * minutes))
        if share >= 1:
            break
        if share >= 0.5 and not half_told:
            _tell(number - 1, heads, reader, held)
            half_told = True
        started = perf_counter()
        found = reader.read(lesson)
        reading += perf_counter() - started
        started = perf_counter()
        for one in heads.values():
            one.learn([found], share)
        learning += perf_counter() - started
        tokens += len(lesson.token_ids)
        documents += len(found.inputs[0])
        if number % 50 == 0:
            note(f"{number} lessons, {share:.0%}")
    _tell(number - 1, heads, reader, held)
    reader.close()
    print(
        f"\nReading {tokens / reading:.0f} tokens/s; learning {len(heads) * documents / learning:.0f} tokens of"
        f" passages/s, in the mean over recipes"
    )


def _encoded(file: Path, model: ReaderModel) -> list[EncodedLesson]:
    chosen = heads_lessons(read_lessons(file), RECIPE.question_share, RECIPE.seed)
    return encode_lessons(chosen, model, RECIPE.longest)[0]


def _tell(
    lessons: int, heads: dict[str, LearningHeads], reader: ImportanceReader, held: list[EncodedLesson]
) -> None:
    found: dict[str, list[tuple[str, float, float]]] = {name: [] for name in heads}
    for lesson in held:
        importance = reader.read(lesson)
        for name, one in heads.items():
            found[name].append((lesson.kind, *one.assess(importance)))
    for name in heads:
        told = summary(found[name])
        kinds = (told.get(f"overlap_{kind}", float("nan")) for kind in ("together", "apart", "question_first"))
        numbers = (told["all"], told["overlap"], *kinds)
        row(lessons, name, *(f"{number:.3f}" for number in numbers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else MINUTES)
