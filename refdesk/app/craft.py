"""CRAFT: the jobs that train adapters."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from refdesk.app.lessons import LESSONS, VALIDATION, Desk, Progress, prepare_collection, prepare_dataset
from refdesk.app.worker import Progress as JobProgress
from refdesk.app.worker import Stopping
from refdesk.craft.card import CARD, read_card
from refdesk.craft.errors import AdapterExists, CraftError, InvalidLessons, InvalidRecipe
from refdesk.craft.lesson import Lesson, read_lessons
from refdesk.craft.recipe import DataRecipe, TrainingRecipe
from refdesk.database import transaction
from refdesk.eval.errors import EvaluationError
from refdesk.eval.provenance import source_commit
from refdesk.eval.runs import get_dataset
from refdesk.eval.source_questions import dataset_examples
from refdesk.reader.errors import EngineClosed, ReaderError
from refdesk.retriever.collections import get_collection, list_collections
from refdesk.retriever.errors import RetrieverError

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    from refdesk.craft.course import Step
    from refdesk.reader.adapter import Adapter

CHECKPOINT = "checkpoint.pt"
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
        from refdesk.craft.question_first import questions_first
        from refdesk.craft.training import train

        data = read_card(lessons / CARD)
        model = self.desk.trainable_model(recipe.quantize)

        def chosen(file: str) -> Iterator[Lesson]:
            return questions_first(read_lessons(lessons / file), recipe.question_share, recipe.seed)

        learned, too_long = encode_lessons(chosen(LESSONS), model, recipe.longest)
        held, held_too_long = encode_lessons(chosen(VALIDATION), model, recipe.longest)

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
