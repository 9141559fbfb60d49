"""What a run is asked to do, checked whole before any model time is spent."""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.options import compression_options
from refdesk.eval.benchmarks import benchmark_folder
from refdesk.eval.dataset import Dataset
from refdesk.eval.errors import InvalidRun, UnknownPipeline
from refdesk.eval.example import Document, DocumentFile, Example, content_digest, documents_of
from refdesk.eval.metrics import METRICS, check_metrics
from refdesk.eval.part import Part, check_part, is_in
from refdesk.eval.pipelines import PIPELINES, Pipeline
from refdesk.eval.task import Task
from refdesk.eval.tasks import find_task
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import memory_options
from refdesk.reader.abstention import check_threshold
from refdesk.reader.answer_form import AnswerForm, check_form
from refdesk.reader.errors import InvalidOption
from refdesk.reader.prompt import AskedReading, check_reading
from refdesk.reader.qa import AnswerOptions
from refdesk.retriever.store import Search

# A ranking is judged by its first ten documents or a hundred; several chunks may be of one document.
_RANKING_K = 100
_DEFAULT_K = 3


@dataclass(frozen=True)
class RunSettings:
    """`task`: a name of `refdesk.eval.tasks`, or of an uploaded data set. `part`: of its questions, those that
    may be trained on or those that are kept back; see `refdesk.eval.part`. `limit`: that many of them, drawn by
    `seed`; None for all. `k`: of pipelines that find chunks, `search`: of those that retrieve them. `budget`: of
    pipelines that cut or attend, in tokens of the reader. `collection`: where a data set without documents of
    its own is asked. `metrics`: None for those that the task names. `benchmarks`: where the data of named tasks
    lie; see `benchmark_folder`. None elsewhere: the task's default. `reading`, `memory`, `compression`, `form`,
    `abstain`, `adapter`: as a question's options; memory None keeps everything, compression None too, adapter
    None is the service's own. Answers are greedy.
    """

    task: str
    pipeline: str = "top_k"
    task_options: Mapping[str, Any] = field(default_factory=dict)
    part: Part = "all"
    limit: int | None = None
    seed: int = 0
    k: int | None = None
    search: Search = "hybrid"
    budget: int = 512
    max_new_tokens: int | None = None
    collection: str | None = None
    reading: AskedReading = "auto"
    memory: Mapping[str, Any] | None = None
    compression: Mapping[str, Any] | None = None
    form: AnswerForm | None = None
    abstain: float | None = None
    adapter: str | None = None
    metrics: tuple[str, ...] | None = None
    benchmarks: str = ""


@dataclass(frozen=True)
class Plan:
    """A run that can be done: `settings` with every default filled in, and the questions in their order.

    `documents`: what the questions are asked about, each once. `data_digest`: of these, the questions and all that
    is known of them; a run is gone on with only over the same.
    """

    settings: RunSettings
    task: Task
    pipeline: Pipeline
    metrics: tuple[str, ...]
    examples: tuple[Example, ...]
    corpus: tuple[Document | DocumentFile, ...]
    documents: tuple[Document | DocumentFile, ...]
    data_digest: str

    @property
    def k(self) -> int:
        """Chunks to retrieve."""
        return self.settings.k or _DEFAULT_K

    def stored_settings(self) -> dict[str, Any]:
        """The settings as JSON-ready values."""
        return asdict(self.settings)


def make_plan(settings: RunSettings, dataset: Dataset | None = None) -> Plan:
    """Check everything that can be checked without a model.

    Raises:
        EvaluationError: the first thing that is wrong; the message names it and what was expected.
    """
    task = find_task(settings.task, dict(settings.task_options)) if dataset is None else dataset
    pipeline = _pipeline(settings, task)
    _check_numbers(settings, task)
    _check_effects(settings, task, pipeline)
    k = settings.k or (_RANKING_K if task.retrieval_only else _DEFAULT_K)
    metrics = _metrics(settings, task, k)
    data = Path() if dataset is not None else benchmark_folder(settings.benchmarks)
    corpus = tuple(task.corpus(data))
    check_part(settings.part)
    name = settings.task if dataset is None else "dataset"
    every = tuple(example for example in task.examples(data) if is_in(settings.part, name, example))
    if not every:
        raise InvalidRun(f"part is {settings.part!r}, but {settings.task} has no such questions")
    _check_documents(settings, pipeline, every, bool(corpus))
    examples = _drawn(every, settings)
    if not any(pipeline.knows_enough(example) for example in examples):
        raise InvalidRun(
            f"pipeline {settings.pipeline!r} needs {pipeline.needs}; no question of {settings.task} has it"
        )
    filled = replace(
        settings,
        task_options=task.options(),
        k=k,
        max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
        form=settings.form or task.form,
        metrics=metrics,
    )
    documents = corpus or documents_of(examples)
    return Plan(filled, task, pipeline, metrics, examples, corpus, documents, _digest(examples, documents))


def _pipeline(settings: RunSettings, task: Task) -> Pipeline:
    if settings.pipeline not in PIPELINES:
        raise UnknownPipeline(f"unknown pipeline {settings.pipeline!r}; known: {', '.join(PIPELINES)}")
    pipeline = PIPELINES[settings.pipeline]
    if task.retrieval_only and not pipeline.ranks:
        fitting = ", ".join(name for name, other in PIPELINES.items() if other.ranks)
        raise UnknownPipeline(
            f"{settings.task} measures retrieval alone; {settings.pipeline!r} does not, {fitting} do"
        )
    return pipeline


def _check_numbers(settings: RunSettings, task: Task) -> None:
    highest = {"limit": 1_000_000, "k": 1000 if task.retrieval_only else 100, "budget": 1_000_000}
    for name, high in {**highest, "max_new_tokens": 4096}.items():
        value = getattr(settings, name)
        low = 2 if name == "budget" else 1  # a head and a tail
        if value is not None and not low <= value <= high:
            raise InvalidRun(f"{name} is {value}; expected {low:,} to {high:,}")
    if settings.search not in get_args(Search):
        raise InvalidRun(f"search is {settings.search!r}; expected one of {', '.join(get_args(Search))}")
    try:
        check_reading(settings.reading)
        check_form(settings.form or task.form)
        check_threshold(settings.abstain)
        memory_options(settings.memory)
        compression_options(settings.compression)
    except (InvalidOption, InvalidMemory, InvalidCompression) as error:
        raise InvalidRun(str(error)) from error


def _check_effects(settings: RunSettings, task: Task, pipeline: Pipeline) -> None:
    """Raise InvalidRun for what is asked for and would change nothing. A task's own form and length are what a
    plan fills in where none is asked for."""
    if pipeline.closed_book and settings.abstain is not None:
        raise InvalidRun(f"abstain is {settings.abstain}; expected nothing, for closed book nothing can be found")
    if not task.retrieval_only and not pipeline.attends:
        return
    compression = compression_options(settings.compression).name
    asked: dict[str, object] = {"compression strategy": compression} if compression != "none" else {}
    asked |= AnswerOptions(reading=settings.reading, memory=memory_options(settings.memory)).of_passages_alone
    why = f"pipeline {settings.pipeline!r} reads no passages"
    if task.retrieval_only:
        own = {"form": task.form, "max_new_tokens": task.max_new_tokens, "abstain": None, "adapter": None}
        given = {option: getattr(settings, option) for option in own}
        asked |= {option: value for option, value in given.items() if value not in (None, own[option])}
        why = f"{settings.task} measures retrieval alone"
    for option, value in asked.items():
        raise InvalidRun(f"{option} is {value!r}; expected nothing, for {why}")


def _metrics(settings: RunSettings, task: Task, k: int) -> tuple[str, ...]:
    """Those that are named, or the task's own as far as k chunks may fill the ranking that they look at."""
    names = task.metrics if settings.metrics is None else check_metrics(settings.metrics)
    filled = tuple(name for name in names if METRICS[name].depth <= k)
    if not filled or (settings.metrics is not None and filled != names):
        deep = next(name for name in names if name not in filled)
        raise InvalidRun(
            f"metric {deep!r} looks at {METRICS[deep].depth} documents, but k is {k} chunks;"
            " expected at least as many"
        )
    return filled


def _check_documents(
    settings: RunSettings, pipeline: Pipeline, examples: tuple[Example, ...], has_corpus: bool
) -> None:
    own = has_corpus or any(example.documents for example in examples)
    if own and settings.collection is not None:
        raise InvalidRun(f"collection is {settings.collection!r}, but {settings.task} brings documents of its own")
    if not own and settings.collection is None and not pipeline.closed_book:
        raise InvalidRun(f"{settings.task} has no documents of its own; expected a collection to ask")
    if settings.collection is not None and not (pipeline.indexed or pipeline.closed_book):
        raise InvalidRun(f"pipeline {settings.pipeline!r} reads given documents; a collection is asked by top_k")


def _drawn(examples: tuple[Example, ...], settings: RunSettings) -> tuple[Example, ...]:
    """`limit` examples drawn by `seed`, in the order of the data: the first ones would be of one article."""
    if settings.limit is None or settings.limit >= len(examples):
        return examples
    chosen = sorted(random.Random(settings.seed).sample(range(len(examples)), settings.limit))
    return tuple(examples[index] for index in chosen)


def _digest(examples: tuple[Example, ...], documents: tuple[Document | DocumentFile, ...]) -> str:
    digest = hashlib.sha256(content_digest(documents).encode())
    for example in examples:
        # A long text that many questions are about is read once.
        ids = [document.id for document in example.documents]
        digest.update(repr((replace(example, documents=()), ids)).encode())
    return digest.hexdigest()[:16]
