"""Doing a run: every question that has no score yet is answered, scored and committed, one after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.options import compression_options
from refdesk.database import transaction
from refdesk.eval.corpus import collection_name, dataset_task, ensure_ingested, texts
from refdesk.eval.desk import Desk
from refdesk.eval.errors import InvalidRun
from refdesk.eval.example import Document, Example, Span
from refdesk.eval.memories import Memories
from refdesk.eval.metrics import METRICS
from refdesk.eval.metrics.outcome import Outcome
from refdesk.eval.pipelines import Workbench, spans
from refdesk.eval.plan import Plan
from refdesk.eval.provenance import DECISIVE, source_commit, versions
from refdesk.eval.run import Run, Score
from refdesk.eval.runs import add_score, note_versions, scored_ids
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import memory_options
from refdesk.reader.citations import is_abstention
from refdesk.reader.errors import EngineClosed, Interrupted, InvalidOption, MemoryTooSmall, PromptTooLong
from refdesk.reader.passage import Passage
from refdesk.reader.qa import QA, Answer, AnswerOptions

Progress = Callable[[str, int], None]
"""Called between commits with the stage and how many questions are scored; it raises what stops the work."""


def do_run(desk: Desk, run: Run, plan: Plan, progress: Progress) -> None:
    """Answer and score what is left of a run. Whatever stops it, what was scored stays and is not done again.

    Raises:
        InvalidRun: the run began over other data, or with another model; or nothing says what its memories keep.
        EvaluationError, RetrieverError, ReaderError: the run cannot be done; a question that does not fit the
            window is no such case, its score says so.
    """
    done = scored_ids(desk.engine, run.id)

    def tell(stage: str) -> None:
        progress(stage, len(done))

    tell("index" if plan.pipeline.indexed or plan.corpus else "load")
    collection = _ingested(desk, run, plan, tell)
    _check_provenance(desk, run, plan)
    ranks = plan.task.retrieval_only
    answer = _Ranker(desk, plan, collection) if ranks else _Reader(desk, plan, collection, tell)
    for position, example in enumerate(plan.examples):
        if example.id in done:
            continue
        tell("ask")
        if plan.pipeline.knows_enough(example):
            score = answer(example)
        else:
            score = _no_answer(plan, example, f"no {plan.pipeline.needs} is known")
        with transaction(desk.engine) as connection:
            add_score(connection, run.id, position, score)
        done.add(example.id)


def _ingested(desk: Desk, run: Run, plan: Plan, progress: Callable[[str], None]) -> str:
    """The name of the collection that holds what the questions are asked about; ingested where it is needed."""
    if plan.settings.collection is not None:
        return plan.settings.collection
    task = run.task if run.dataset is None else dataset_task(run.dataset)
    name = collection_name(task, plan.documents)
    if plan.corpus or plan.pipeline.indexed:
        ensure_ingested(desk, name, plan.documents, progress)
    return name


def _check_provenance(desk: Desk, run: Run, plan: Plan) -> None:
    if run.versions.get("data") != plan.data_digest:
        raise InvalidRun(f"run {run.id} began over other data; the questions of {run.task} have changed since")
    used = versions(
        desk,
        reads=not plan.task.retrieval_only,
        indexed=plan.pipeline.indexed,
        remembers=plan.pipeline.remembers is not None,
        adapter=plan.settings.adapter,
        collection=plan.settings.collection,
    )
    used["data"] = plan.data_digest
    if len(run.versions) == 1:
        note_versions(desk.engine, run.id, used, source_commit())
        return
    for name in DECISIVE:
        # A run of before there were adapters, or heads, had none.
        before = "none" if name in ("adapter", "heads") and name in used else None
        if run.versions.get(name, before) != used.get(name):
            raise InvalidRun(
                f"run {run.id} began with {name} {run.versions.get(name)}, now it is {used.get(name)};"
                " go on with the same, or start another run"
            )
    if (commit := source_commit()) != run.commit:  # Refdesk itself may be another; who compares is told
        note_versions(desk.engine, run.id, {**run.versions, "gone_on_with_at": commit}, run.commit)


class _Ranker:
    """Ranks documents; nothing is generated."""

    def __init__(self, desk: Desk, plan: Plan, collection: str) -> None:
        self._plan = plan
        self._retrieve = desk.retriever(collection, plan.settings.search)

    def __call__(self, example: Example) -> Score:
        started = perf_counter()
        sources = tuple(example.relevance) if self._plan.pipeline.needs == "relevance" else None
        found = self._retrieve(example.question, self._plan.k, sources)
        costs = {"seconds_retrieve": perf_counter() - started}
        outcome = Outcome("", ranking=_ranking(found))
        return _score(self._plan, example, outcome, costs | {"seconds_total": costs["seconds_retrieve"]})


class _Reader:
    """Answers questions with the service's own QA. `tell`: called between the chunks of a document that is read
    into memory; see Progress."""

    def __init__(self, desk: Desk, plan: Plan, collection: str, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._model, self._engine = desk.reader
        self._adapter = desk.adapter(plan.settings.adapter, plan.settings.collection)
        self._heads = desk.heads(self._adapter)
        self._memory = memory_options(plan.settings.memory or {"policy": "none"})
        self._desk = desk
        self._compression = compression_options(plan.settings.compression)
        shared: dict[str, Document] = {}

        def corpus() -> dict[str, Document]:
            if not shared:
                shared.update(texts(desk, collection, plan.corpus))
            return shared

        self._bench = Workbench(
            model=self._model,
            budget=plan.settings.budget,
            window=None if self._fits_more() else self._model.window,
            max_new_tokens=plan.settings.max_new_tokens or plan.task.max_new_tokens,
            retrieve=desk.retriever(collection, plan.settings.search) if plan.pipeline.indexed else _nothing,
            corpus=corpus,
        )
        self._memories = self._made_memories(plan.pipeline.remembers, lambda: tell("read"))

    def _made_memories(self, asked: Mapping[str, Any] | None, progress: Callable[[], None]) -> Memories | None:
        """Raises InvalidRun where there are no heads to thin with."""
        if asked is None:
            return None
        from refdesk.reader.remember import RememberOptions
        from refdesk.reader.thinning import thinning_of

        options = RememberOptions(**asked)
        try:
            thinning_of(options.keep, options.rate, self._model, self._adapter, self._heads)
        except InvalidOption as error:
            raise InvalidRun(f"pipeline {self._plan.settings.pipeline!r} cannot be run: {error}") from error
        return Memories(self._desk, options, self._adapter, self._heads, progress)

    def _fits_more(self) -> bool:
        """Whether what is longer than the window may yet be read."""
        return self._memory.auto or self._memory.policy is not None or self._compression.name != "none"

    def __call__(self, example: Example) -> Score:
        pipeline = self._plan.pipeline
        retrieved: list[Passage] = []
        try:
            select = pipeline.select(example, self._bench)
        except PromptTooLong as error:
            return _no_answer(self._plan, example, str(error))

        def retrieve(question: str, k: int, documents: tuple[str, ...] | None) -> list[Passage]:
            retrieved.extend(select(question, k, documents))
            return retrieved

        qa = QA(retrieve, self._model, self._engine, closed_book=pipeline.closed_book)
        options = AnswerOptions(
            k=self._plan.k,
            max_new_tokens=self._bench.max_new_tokens,
            reading=self._plan.settings.reading,
            memory=self._memory,
            form=self._plan.settings.form or self._plan.task.form,
            abstain=self._plan.settings.abstain,
            adapter=self._adapter,
            heads=self._heads,
            shorten=self._desk.shortener(self._compression.guided_by(example.guiding)),
            reference=example.answers[0] if example.answers else None,
        )
        try:
            if self._memories is not None:
                only = self._bench.relevant if pipeline.needs == "relevance" else self._bench.documents
                attended = self._bench.budget if pipeline.attends else None
                options = replace(options, whole=self._memories.whole(list(only(example).values()), attended))
            answer = qa.answer(example.question, options)
        except (PromptTooLong, MemoryTooSmall, InvalidMemory, InvalidCompression) as error:
            return _no_answer(self._plan, example, str(error))
        except Interrupted as error:
            raise EngineClosed("the engine was closed while a document was read") from error
        if answer.finish_reason == "cancelled":  # the engine is being closed; half an answer is no score
            raise EngineClosed("the engine was closed during a question")
        given = not pipeline.indexed and pipeline.remembers is None
        if answer.usage.passages_dropped and given:
            return _no_answer(
                self._plan, example, "what is given fits the window only without the prompt around it"
            )
        ranking = _ranking(retrieved) if pipeline.ranks else None
        return _score(self._plan, example, _outcome(answer, ranking), _costs(answer))


def _nothing(question: str, k: int, documents: tuple[str, ...] | None) -> Sequence[Passage]:
    """A pipeline that searches nothing has no collection to search."""
    return ()


def _ranking(passages: Sequence[Passage]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(passage.document_id for passage in passages))


def _outcome(answer: Answer, ranking: tuple[str, ...] | None) -> Outcome:
    return Outcome(
        answer=answer.text,
        context=spans(answer.passages),
        held=answer.held,
        citations=tuple(Span(cited.document_id, cited.start, cited.end) for cited in answer.citations),
        ranking=ranking,
        nll=answer.reference_nll,
        abstained=answer.finish_reason == "no_passages" or is_abstention(answer.text),
        well_formed=answer.well_formed,
    )


def _costs(answer: Answer) -> dict[str, float]:
    usage = answer.usage
    seconds = {f"seconds_{stage}": value for stage, value in usage.seconds.items()}
    counts = (
        *("prompt_tokens", "completion_tokens", "passages_used", "passages_dropped"),
        *("run_hits", "run_loads", "run_misses"),
    )
    held = {
        "tokens_before": usage.compression.tokens_before,
        "tokens_after": usage.compression.tokens_after,
        "kv_entries": usage.memory.peak_entries,
        "kv_bytes": usage.memory.peak_bytes,
        "kv_held_bytes": usage.memory.held_bytes,
        "kv_freed_bytes": usage.memory.freed_bytes,
    }
    counted = {name: getattr(usage, name) for name in counts} | held
    return {name: float(value) for name, value in counted.items()} | seconds


def _score(plan: Plan, example: Example, outcome: Outcome, costs: Mapping[str, float]) -> Score:
    quality = {name: METRICS[name].score(example, outcome) for name in plan.metrics}
    return Score(
        example_id=example.id,
        question=example.question,
        references=example.answers,
        answer=outcome.answer,
        values={**quality, **costs},
        facts=dict(example.facts),
    )


def _no_answer(plan: Plan, example: Example, error: str) -> Score:
    return Score(
        example_id=example.id,
        question=example.question,
        references=example.answers,
        answer="",
        values=dict.fromkeys(plan.metrics),
        facts=dict(example.facts),
        error=error,
    )
