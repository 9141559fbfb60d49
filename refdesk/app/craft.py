"""CRAFT: lessons out of benchmarks or of a collection, and the jobs that train adapters on them."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from sqlalchemy import Engine

from refdesk.app.adapters import (
    NONE,
    AdapterEntry,
    adapter_of_job,
    add_adapter,
    begin_again,
    check_name,
    craft_folder,
    find_adapter,
    get_adapter,
    note_card,
)
from refdesk.app.jobs import Job, add_job
from refdesk.app.settings import Settings
from refdesk.app.worker import Progress as JobProgress
from refdesk.app.worker import Stopping
from refdesk.craft.card import CARD, describe, read_card, write_card
from refdesk.craft.errors import AdapterExists, CraftError, InvalidLessons, InvalidRecipe
from refdesk.craft.lesson import Lesson, read_lessons, write_lessons
from refdesk.craft.question import SourceQuestion, holds, passage_key
from refdesk.craft.raft import hold_out, make_lessons
from refdesk.craft.recipe import DataRecipe, TrainingRecipe
from refdesk.database import transaction
from refdesk.eval import desk as evaluation
from refdesk.eval.benchmarks import benchmark_folder
from refdesk.eval.errors import EvaluationError
from refdesk.eval.provenance import source_commit
from refdesk.eval.runs import get_dataset
from refdesk.eval.source_questions import (
    TaskSource,
    dataset_examples,
    kept_back,
    source_collection,
    source_questions,
)
from refdesk.reader.errors import EngineClosed, ReaderError
from refdesk.reader.passage import Passage
from refdesk.retriever.collections import Collection, get_collection, list_collections
from refdesk.retriever.errors import RetrieverError

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.craft.course import Step
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel

Progress = Callable[[str, int, int], None]
"""Called often with the stage, what is done and what there is to do; it raises what stops the work."""

LESSONS, VALIDATION, CHECKPOINT = "lessons.jsonl", "validation.jsonl", "checkpoint.pt"
ASKED = "asked.jsonl"  # questions of a collection, until there are enough of them

# Everything that may be trained on; the adapter that is shipped is made of it.
SHIPPED_SOURCES = (
    TaskSource("nq-oracle"),
    TaskSource("squad", {"split": "train"}, part="all"),
    TaskSource("squad"),
    TaskSource("squad-v2"),
    TaskSource("hotpotqa"),
    TaskSource("musique"),
    TaskSource("pubmedqa"),
    TaskSource("clapnq"),
    TaskSource("covidqa"),
    TaskSource("fairytaleqa", {"split": "train"}, part="all", limit=1500),
    TaskSource("policyqa", {"context": "policy"}, limit=1000),
    TaskSource("tatqa"),
    TaskSource("wikitables"),
)

_VALIDATION_QUESTIONS = 300
_PARTS = 1000  # of a job, which counts thousandths


@dataclass(frozen=True)
class CraftSettings:
    """What to train an adapter on: a `collection`, of which so many `questions` are made, an uploaded `dataset` by
    its id, or a folder of `lessons` that `prepare` wrote. `start`: the adapter that it begins as, None for the
    service's own where the rank is the same, `none` for none."""

    dataset: str | None = None
    collection: str | None = None
    questions: int = 1000
    lessons: str | None = None
    start: str | None = None
    data: DataRecipe = field(default_factory=DataRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)


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
        found.append((source.task, questions))
    return _write(folder, found, recipe, {"sources": told, "embedder": desk.embedder.name})


def prepare_dataset(
    desk: Desk, dataset_id: str, recipe: DataRecipe, folder: Path, progress: Progress
) -> dict[str, Any]:
    """The same out of the training part of an uploaded data set. Raises UnknownDataset, InvalidDataset besides."""
    examples = dataset_examples(get_dataset(desk.engine, dataset_id))
    name = f"dataset.{dataset_id[:8]}"
    questions = source_questions(desk, name, examples, progress)
    desk.delete_collection(source_collection(name, examples))  # its documents are kept with the data set alone
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
    found = [(str(next(iter(told.values()))), usable)]
    return _write(folder, found, recipe, {"sources": [told], "embedder": desk.embedder.name})


def _write(
    folder: Path, found: list[tuple[str, list[SourceQuestion]]], recipe: DataRecipe, card: dict[str, Any]
) -> dict[str, Any]:
    """Lessons of the questions that were found, by their sources."""
    # A tenth, but no more than tells the losses apart.
    every = sum(len(questions) for _, questions in found)
    share = min(_VALIDATION_QUESTIONS / every, 0.1) if every else 0.0
    lessons: list[Lesson] = []
    validation: list[Lesson] = []
    for source, questions in found:
        learned, held = hold_out(questions, share, recipe.seed)
        lessons += make_lessons(learned, recipe, source, beside=held)
        validation += make_lessons(held, replace(recipe, rounds=1), source, beside=learned)
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


def start_training(engine: Engine, name: str, wanted: CraftSettings) -> AdapterEntry:
    """Queue the training of an adapter. One that failed or was cancelled, asked for again with the same settings,
    is gone on with.

    Raises:
        InvalidRecipe: a bad name, no peft to train with, not exactly one of a collection, a data set and lessons,
            or an empty collection.
        UnknownDataset, InvalidDataset: no such data set, or no question in it can be trained on.
        InvalidLessons: no lessons in that folder.
        AdapterExists: the name is taken.
        AdapterNotFound: no adapter of that name to start with.
        UnknownCollection: no such collection.
    """
    check_name(name)
    known = find_adapter(engine, name)
    stored = msgspec.json.decode(msgspec.json.encode(wanted))
    stopped = known is not None and not known.ready and known.state in ("failed", "cancelled")
    if known is not None and not (stopped and known.settings == stored):
        raise AdapterExists(f"adapter {name!r} exists already; delete it, or choose another name")
    if find_spec("peft") is None:
        raise InvalidRecipe("training needs peft, which is not installed: pip install 'refdesk[train]'")
    if sum(source is not None for source in (wanted.collection, wanted.dataset, wanted.lessons)) != 1:
        raise InvalidRecipe("expected one of a collection, a dataset or lessons to train on")
    if wanted.start not in (None, NONE) and not get_adapter(engine, wanted.start).ready:
        raise InvalidRecipe(f"start is {wanted.start!r}, which is not ready; expected an adapter that is")
    if not 10 <= wanted.questions <= 100_000:
        raise InvalidRecipe(f"questions is {wanted.questions}; expected 10 to 100000")
    if wanted.collection is not None:
        _check_filled(engine, wanted.collection)
    if wanted.dataset is not None:
        dataset_examples(get_dataset(engine, wanted.dataset))
    if wanted.lessons is not None:
        for file in (CARD, LESSONS, VALIDATION):
            if not (Path(wanted.lessons) / file).is_file():
                raise InvalidLessons(f"no {file} in {wanted.lessons}; expected what `refdesk craft prepare` wrote")
    with transaction(engine) as connection:
        job = add_job(connection, Crafting.kind, None, [], _PARTS)
        if known is None:
            add_adapter(connection, job, name, stored)
        else:
            begin_again(connection, known, job)
    return get_adapter(engine, name)


def _check_filled(engine: Engine, collection: str) -> None:
    counts = {found.name: counts for found, counts in list_collections(engine)}
    if not counts[get_collection(engine, collection).name]["chunks"]:
        raise InvalidRecipe(f"collection {collection!r} is empty; take documents in first")


@dataclass(frozen=True)
class Crafting:
    """The work of jobs that train an adapter: lessons first, unless they are there, then the training, which is
    gone on with from its last checkpoint."""

    desk: Desk

    kind = "craft"
    told = (CraftError, EvaluationError, ReaderError, RetrieverError)

    def heal(self) -> None:
        """Nothing: files are whole or not there."""

    def do(self, job: Job, progress: JobProgress) -> None:
        """See Work."""
        progress("load", job.done)
        self.desk.warm()  # its libraries cannot be imported while those of training are
        entry = adapter_of_job(self.desk.engine, job.id)
        wanted = msgspec.convert(entry.settings, CraftSettings)
        folder = craft_folder(self.desk.settings.data, entry)
        if entry.ready:  # stopped between the last two steps
            shutil.rmtree(folder, ignore_errors=True)
            return
        start = self._start(wanted)
        lessons = folder if wanted.lessons is None else Path(wanted.lessons)
        if not (lessons / CARD).is_file():
            try:
                self._prepare(
                    wanted, folder, lambda stage, done, total: progress(f"{stage} {done}/{total}"[:32], job.done)
                )
            except EngineClosed as error:
                raise Stopping from error
        progress("load", job.done)
        card = self._train(entry.name, lessons, wanted.training, start, folder / CHECKPOINT, progress)
        note_card(self.desk.engine, job.id, card)
        shutil.rmtree(folder, ignore_errors=True)  # it holds the text of passages

    def _start(self, wanted: CraftSettings) -> "Adapter | None":
        start, rank = self.desk.adapter(wanted.start), wanted.training.rank
        if start is None or start.ranks == {rank}:
            return start
        if wanted.start is None:
            return None
        raise InvalidRecipe(f"start is {wanted.start!r}, of rank {max(start.ranks)}; expected one of rank {rank}")

    def _prepare(self, wanted: CraftSettings, folder: Path, progress: Progress) -> None:
        if wanted.collection is not None:
            prepare_collection(self.desk, wanted.collection, wanted.questions, wanted.data, folder, progress)
        elif wanted.dataset is not None:
            prepare_dataset(self.desk, wanted.dataset, wanted.data, folder, progress)

    def _train(
        self,
        name: str,
        lessons: Path,
        recipe: TrainingRecipe,
        start: "Adapter | None",
        checkpoint: Path,
        progress: JobProgress,
    ) -> dict[str, Any]:
        from refdesk.craft.adapter_folder import save_adapter
        from refdesk.craft.course import result
        from refdesk.craft.encoding import encode_lessons
        from refdesk.craft.training import train

        data = read_card(lessons / CARD)
        model = self.desk.trainable_model(recipe.quantize)
        learned, too_long = encode_lessons(read_lessons(lessons / LESSONS), model, recipe.longest)
        held, held_too_long = encode_lessons(read_lessons(lessons / VALIDATION), model, recipe.longest)

        def report(step: "Step") -> None:
            progress(f"loss {step.loss:.3g}, {step.left_s / 60:.0f} min left"[:32], int(_PARTS * step.share))

        outcome = train(model, learned, held, recipe, checkpoint, report, start)
        card = {
            "name": name,
            "base_name": model.name,
            "base_fingerprint": model.fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
            "recipe": asdict(recipe),
            "start": {"name": start.name, "fingerprint": start.fingerprint} if start else None,
            "result": result(outcome),
            "lessons_too_long": too_long + held_too_long,
            "data": data,
            "commit": source_commit(),
        }
        save_adapter(self.desk.adapter_folder(name), outcome, card)
        return card
