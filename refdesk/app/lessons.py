"""Lessons out of benchmarks, of an uploaded data set or of a collection, written into a folder."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from refdesk.app.settings import Settings
from refdesk.craft.card import CARD, describe, write_card
from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.lesson import Lesson, write_lessons
from refdesk.craft.question import SourceQuestion, holds, passage_key
from refdesk.craft.raft import hold_out, make_lessons
from refdesk.craft.recipe import DataRecipe
from refdesk.eval import desk as evaluation
from refdesk.eval.benchmarks import benchmark_folder
from refdesk.eval.corpus import collection_name, dataset_task
from refdesk.eval.example import documents_of
from refdesk.eval.provenance import source_commit
from refdesk.eval.runs import get_dataset
from refdesk.eval.source_questions import (
    TaskSource,
    dataset_examples,
    kept_back,
    source_questions,
)
from refdesk.reader.passage import Passage
from refdesk.retriever.collections import Collection, get_collection

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel

Progress = Callable[[str, int, int], None]
"""Called often with the stage, what is done and what there is to do; it raises what stops the work."""

LESSONS, VALIDATION = "lessons.jsonl", "validation.jsonl"
ASKED = "asked.jsonl"  # questions of a collection, until there are enough of them

# Everything that may be trained on; the adapter that is shipped is made of it.
SHIPPED_SOURCES = (
    TaskSource("nq-oracle", rounds=2),
    TaskSource("squad", {"split": "train"}, part="all"),
    TaskSource("squad"),
    TaskSource("squad-v2"),
    TaskSource("hotpotqa", rounds=4),
    TaskSource("musique", rounds=4),
    TaskSource("pubmedqa", rounds=3),
    TaskSource("pubmedqa", {"answer": "long"}),
    TaskSource("clapnq", rounds=4),
    TaskSource("qmsum", {"split": "train"}, part="all"),
    TaskSource("covidqa"),
    TaskSource("fairytaleqa", {"split": "train"}, part="all", limit=1500),
    TaskSource("policyqa", {"context": "policy"}, limit=1000),
    TaskSource("tatqa"),
    TaskSource("wikitables"),
)

_VALIDATION_QUESTIONS = 300


@dataclass(frozen=True)
class _Found:
    """The questions of one source, to be asked so many times as often as those of others."""

    source: str
    questions: list[SourceQuestion]
    rounds: int = 1


class Desk(evaluation.Desk, Protocol):
    """What crafting needs of the service besides."""

    settings: Settings

    def warm(self) -> None:
        """Load the models."""

    def adapter(self, asked: str | None = None, collection_name: str | None = None) -> "Adapter | None":
        """The adapter to answer with."""

    def adapter_folder(self, name: str) -> Path:
        """Where an adapter is kept."""

    def delete_collection(self, name: str) -> None:
        """Remove a collection everywhere."""

    def trainable_model(self, quantize: bool = False) -> "ReaderModel":
        """The model again, loaded to be trained; with `quantize` in four bits."""

    def sample_passages(self, collection: Collection, count: int, seed: int) -> list[Passage]:
        """Passages of a collection, drawn by `seed`."""


def prepare(
    desk: Desk,
    sources: Sequence[TaskSource],
    recipe: DataRecipe,
    benchmarks: str,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write lessons out of benchmarks, some held back for validation, and their card into `folder`; the card comes
    back. The same sources, recipe and embedder give the same files.

    Raises:
        InvalidRecipe: there is nothing to learn in it.
        EvaluationError, RetrieverError: a source is at fault.
    """
    data = benchmark_folder(benchmarks)
    held = kept_back(list(sources), data)
    found = []
    told = []
    for source in sources:
        examples = source.examples(data)
        kept = [example for example in examples if not held.holds(example)]
        questions = source_questions(
            desk, source.task, kept, lambda *done, name=source.task: progress(name, *done[1:])
        )
        told.append({**asdict(source), "questions": len(questions), "refused": len(examples) - len(kept)})
        found.append(_Found(source.task, questions, source.rounds))
    return _write(folder, found, recipe, {"sources": told, "embedder": desk.embedder.name})


def prepare_dataset(
    desk: Desk, dataset_id: str, recipe: DataRecipe, folder: Path, progress: Progress
) -> dict[str, Any]:
    """The same out of the training part of an uploaded data set. Raises UnknownDataset, InvalidDataset besides."""
    examples = dataset_examples(get_dataset(desk.engine, dataset_id))
    name = dataset_task(dataset_id)
    questions = source_questions(desk, name, examples, progress)
    # Its documents are kept with the data set alone.
    desk.delete_collection(collection_name(f"craft.{name}", documents_of(examples)))
    told = {"dataset": dataset_id, "questions": len(questions)}
    return _write_of(desk, folder, questions, recipe, told)


def prepare_collection(
    desk: Desk, collection_name: str, wanted: int, recipe: DataRecipe, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write lessons out of a collection, its questions made by the reader itself, with their card into `folder`.

    Raises:
        InvalidRecipe: too few questions could be made.
        UnknownCollection, EmbedderMismatch: see `retriever.collections`.
    """
    from refdesk.craft.asking import ask_about, keep_question, kept_questions

    collection = get_collection(desk.engine, collection_name)
    # Of the questions that the model makes, hardly half are good.
    passages = desk.sample_passages(collection, 3 * wanted, recipe.seed)
    retrieve = desk.retriever(collection_name, "hybrid")
    model, engine = desk.reader
    known = kept_questions(folder / ASKED, passages)
    more = ask_about(
        passages,
        model,
        engine,
        adapter=desk.adapter(),
        seed=recipe.seed,
        known=known,
        report=lambda done: progress("ask", done, len(passages)),
    )
    for asked in islice(more, wanted - len(known)):
        keep_question(folder / ASKED, asked)
        known.append(asked)
    made: list[SourceQuestion] = []
    for asked in known:
        hard = [
            passage
            for passage in retrieve(asked.question, 30, None)
            if not passage.overlaps(asked.passage) and not holds(passage.text, (asked.answer,))
        ]
        number = f"{collection_name}:{len(made) + 1}"
        made.append(SourceQuestion(number, asked.question, (asked.answer,), (asked.passage,), tuple(hard)))
    told = {"collection": collection_name, "passages": len(passages), "questions": len(made)}
    card = _write_of(desk, folder, made, recipe, told)
    (folder / ASKED).unlink()
    return card


def _write_of(
    desk: Desk, folder: Path, questions: list[SourceQuestion], recipe: DataRecipe, told: dict[str, Any]
) -> dict[str, Any]:
    """Lessons of one source, which may be small: no lesson has more than half of its passages, and a question
    whose answer stands nearly everywhere is left out."""
    passages = {passage_key(p): p for q in questions for p in (*q.oracles, *q.distractors)}

    def has_enough(question: SourceQuestion) -> bool:
        oracles = {passage_key(passage) for passage in question.oracles}
        wrong = (key for key, p in passages.items() if key not in oracles and not holds(p.text, question.answers))
        return sum(1 for _ in islice(wrong, max(fitting) + 1)) > max(fitting)

    fitting = tuple(count for count in recipe.distractors if count <= len(passages) // 2) or (0,)
    recipe = replace(recipe, distractors=fitting)
    usable = [question for question in questions if has_enough(question)]
    told["left_out"] = len(questions) - len(usable)
    found = [_Found(str(next(iter(told.values()))), usable)]
    return _write(folder, found, recipe, {"sources": [told], "embedder": desk.embedder.name})


def _write(folder: Path, found: list[_Found], recipe: DataRecipe, card: dict[str, Any]) -> dict[str, Any]:
    """Lessons of the questions that were found, by their sources."""
    every = [question for one in found for question in one.questions]
    # A tenth, but no more than tells the losses apart.
    share = min(_VALIDATION_QUESTIONS / len(every), 0.1) if every else 0.0
    held_out = {question.id for question in hold_out(every, share, recipe.seed)[1]}  # sources may share passages
    lessons: list[Lesson] = []
    validation: list[Lesson] = []
    for one in found:
        learned = [question for question in one.questions if question.id not in held_out]
        held = [question for question in one.questions if question.id in held_out]
        often = replace(recipe, rounds=recipe.rounds * one.rounds)
        lessons += make_lessons(learned, often, one.source, beside=held)
        validation += make_lessons(held, replace(recipe, rounds=1), one.source, beside=learned)
    if not lessons or not validation:
        raise InvalidRecipe("there are too few questions to learn from and to validate with; give more documents")
    random.Random(recipe.seed).shuffle(lessons)
    card = {
        **card,
        "recipe": asdict(recipe),
        "training": describe(lessons),
        "validation": describe(validation),
        "commit": source_commit(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_lessons(folder / LESSONS, lessons)
    write_lessons(folder / VALIDATION, validation)
    write_card(folder / CARD, card)  # last: where it is, the rest is
    return card
