"""A run scores every question once, whatever stops it, and mixes nothing."""

import contextlib
import gzip
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refdesk.app.evaluation import cancel_run, start_runs
from refdesk.app.jobs import get_job
from refdesk.app.settings import Settings
from refdesk.eval.errors import (
    InvalidDataset,
    InvalidRun,
    InvalidTaskOption,
    MissingData,
    UnknownDataset,
    UnknownMetric,
    UnknownPipeline,
    UnknownRun,
    UnknownTask,
)
from refdesk.eval.plan import RunSettings
from refdesk.eval.runs import add_dataset, delete_run, get_run, list_datasets, list_runs
from refdesk.reader.answer_form import NOT_FOUND
from refdesk.reader.engine import Engine
from refdesk.reader.model import ReaderModel
from refdesk.reader.qa import AnswerOptions
from refdesk.retriever.collections import list_collections
from refdesk.retriever.errors import UnknownCollection, UnknownDocument
from tests.eval.conftest import ROWS, SmallDesk, jsonl
from tests.eval.runs import SETTINGS, begin, collection_of, finish, plan_of, scores, without_times


class Stop(Exception):
    """What stops a run in these tests."""


def test_every_question_gets_one_score_with_its_costs(desk: SmallDesk, harrow: bytes) -> None:
    run = begin(desk, harrow)
    finish(desk, run)
    rows = scores(desk, run)
    assert [row.example_id for row in rows] == ["tower", "bridge", "mayor"]
    for row in rows:
        assert row.error is None
        assert row.values["prompt_tokens"] > 0
        assert row.values["kv_bytes"] > 0
        assert row.values["seconds_total"] >= row.values["seconds_prefill"] > 0
    tower, bridge, mayor = rows
    assert tower.values["nll"] > 0
    assert mayor.values["nll"] is None
    assert bridge.values["kept_gold"] == 1.0
    assert "recall_at_10" not in bridge.values  # two chunks are not ten documents
    assert mayor.values["abstention"] in (0.0, 1.0)


def test_an_answer_is_the_one_that_a_user_gets(desk: SmallDesk, harrow: bytes) -> None:
    run = begin(desk, harrow)
    finish(desk, run)
    example = plan_of(desk, run).examples[0]
    sources = tuple(document.id for document in example.documents)
    options = AnswerOptions(k=2, max_new_tokens=8, documents=sources)
    assert scores(desk, run)[0].answer == desk.qa(collection_of(desk, run)).answer(example.question, options).text


@pytest.mark.parametrize("pipeline", ["closed_book", "oracle", "truncation", "top_k", "top_k_gold", "full"])
def test_every_pipeline_answers_from_its_own_context(desk: SmallDesk, harrow: bytes, pipeline: str) -> None:
    run = begin(desk, harrow, replace(SETTINGS, pipeline=pipeline, k=1))
    finish(desk, run)
    rows = scores(desk, run)
    assert [row.error for row in rows] == [None, None, None]
    shown = {"closed_book": (0, 0), "full": (3, 2), "truncation": (3, 2)}.get(pipeline, (1, 1))
    assert tuple(row.values["passages_used"] for row in rows[:2]) == shown
    kept = {"closed_book": 0.0, "top_k": None}.get(pipeline, 1.0)
    assert kept is None or [row.values["kept_gold"] for row in rows[:2]] == [kept, kept]
    ingested = {collection.name for collection, _ in list_collections(desk.engine)}
    assert ingested == ({collection_of(desk, run)} if "top_k" in pipeline else set())


@pytest.mark.parametrize("pipeline", ["top_k", "full"])
def test_a_run_stopped_anywhere_equals_one_never_stopped_row_for_row(
    desk: SmallDesk, harrow: bytes, pipeline: str
) -> None:
    settings = replace(SETTINGS, pipeline=pipeline)
    whole = begin(desk, harrow, settings)
    finish(desk, whole)
    stopped = begin(desk, harrow, settings)
    asked: list[int] = []
    for stop_at in range(8):
        calls = iter(range(10**6))

        def progress(stage: str, done: int, calls: Any = calls, stop_at: int = stop_at) -> None:
            if stage == "ask":
                asked.append(done)
            if next(calls) == stop_at:
                raise Stop

        with contextlib.suppress(Stop):
            finish(desk, stopped, progress)
    assert {0, 1, 2} <= set(asked)  # it was stopped between questions too
    finish(desk, stopped)
    assert without_times(scores(desk, stopped)) == without_times(scores(desk, whole))
    before = scores(desk, stopped)
    finish(desk, stopped)
    assert scores(desk, stopped) == before


def test_a_question_that_does_not_fit_the_window_is_told_and_the_others_are_answered(
    desk: SmallDesk, model: ReaderModel
) -> None:
    long = {"id": "long", "question": "Where?", "answers": ["here"], "documents": ["Somewhere. " * model.window]}
    run = begin(desk, jsonl(ROWS[0], long, ROWS[1]), replace(SETTINGS, pipeline="full"))
    finish(desk, run)
    first, second, third = scores(desk, run)
    assert (first.error, third.error) == (None, None)
    assert "the full context takes" in str(second.error)
    assert second.values["f1"] is None


@pytest.mark.parametrize("memory", [{"policy": "infinipot", "budget": 300}, {"policy": "auto"}])
def test_what_does_not_fit_the_window_is_answered_where_memory_is_thinned(
    memory: dict[str, Any], desk: SmallDesk, model: ReaderModel
) -> None:
    long = {"id": "long", "question": "Where?", "answers": ["here"], "documents": ["Somewhere. " * model.window]}
    run = begin(desk, jsonl(ROWS[0], long, ROWS[1]), replace(SETTINGS, pipeline="full", memory=memory))
    finish(desk, run)
    assert [score.error for score in scores(desk, run)] == [None] * 3


def test_a_budget_that_is_too_small_for_a_question_is_told_with_it(desk: SmallDesk) -> None:
    memory = {"policy": "infinipot", "budget": 2}
    run = begin(desk, jsonl(*ROWS[:2]), replace(SETTINGS, pipeline="full", memory=memory))
    finish(desk, run)
    assert all("budget is 2" in str(score.error) for score in scores(desk, run))


def test_a_question_that_does_not_fit_the_memory_is_told_and_the_others_are_answered(
    desk: SmallDesk, model: ReaderModel
) -> None:
    desk.reader[1].close()
    desk._small = (model, Engine(model, memory_bytes=640 * 6 * 140))  # 640 tokens
    words = 800 // len(model.tokenizer.encode("Somewhere. "))
    long = {"id": "long", "question": "Where?", "answers": ["here"], "documents": ["Somewhere. " * words]}
    run = begin(desk, jsonl(ROWS[0], long, ROWS[1]), replace(SETTINGS, pipeline="full"))
    finish(desk, run)
    first, second, third = scores(desk, run)
    assert (first.error, third.error) == (None, None)
    assert "MiB of KV memory" in str(second.error)


def test_a_threshold_of_abstaining_is_that_of_every_question(desk: SmallDesk, harrow: bytes) -> None:
    run = begin(desk, harrow, replace(SETTINGS, abstain=1e-300, max_new_tokens=32))
    finish(desk, run)
    assert {score.answer for score in scores(desk, run)} == {NOT_FOUND}


def test_a_limit_draws_the_same_questions_for_every_pipeline(desk: SmallDesk) -> None:
    rows = [ROWS[0] | {"id": str(number)} for number in range(50)]
    drawn = {}
    for pipeline in ("full", "closed_book"):
        for seed in (0, 1):
            settings = replace(SETTINGS, pipeline=pipeline, limit=10, seed=seed)
            run = begin(desk, jsonl(*rows), settings)
            assert run.total == 10
            drawn[pipeline, seed] = [example.id for example in plan_of(desk, run).examples]
    assert drawn["full", 0] == drawn["closed_book", 0] == sorted(drawn["full", 0], key=int)
    assert drawn["full", 0] != drawn["full", 1]


def test_a_collection_of_ones_own_is_asked(desk: SmallDesk) -> None:
    store = desk.open_store(desk.create_collection("town"))
    store.add_texts(
        ["The Harrow Tower was finished in 1911.", "The market opens at seven."], ids=["tower", "market"]
    )
    row = {"question": "When was the tower finished?", "answers": ["1911"], "relevant": ["tower"]}
    run = begin(desk, jsonl(row), replace(SETTINGS, collection="town", k=10))
    finish(desk, run)
    assert scores(desk, run)[0].values["recall_at_10"] == 1.0
    gold = replace(SETTINGS, collection="town", pipeline="top_k_gold")
    with pytest.raises(UnknownDocument, match="unknown document 'spire' in collection 'town'"):
        begin(desk, jsonl(row | {"relevant": ["tower", "spire"]}), gold)
    with pytest.raises(UnknownCollection, match="nowhere"):
        begin(desk, jsonl(row), replace(SETTINGS, collection="nowhere"))
    with pytest.raises(InvalidRun, match="no documents of its own"):
        begin(desk, jsonl(row))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pipeline": "best"}, UnknownPipeline, "'best'; known: closed_book"),
        ({"metrics": ("f1", "f3")}, UnknownMetric, "'f3'; known: em"),
        ({"metrics": ("f1", "f1")}, UnknownMetric, "twice"),
        (
            {"metrics": ("f1", "recall_at_10")},
            InvalidRun,
            "'recall_at_10' looks at 10 documents, but k is 2 chunks",
        ),
        ({"limit": 0}, InvalidRun, "limit is 0"),
        ({"k": 101}, InvalidRun, "k is 101; expected 1 to 100"),
        ({"budget": 1}, InvalidRun, "budget is 1"),
        ({"max_new_tokens": 0}, InvalidRun, "max_new_tokens is 0"),
        ({"search": "magic"}, InvalidRun, "search is 'magic'"),
        ({"abstain": 0.5, "pipeline": "closed_book"}, InvalidRun, "abstain is 0.5; expected nothing"),
        ({"abstain": 1.5}, InvalidRun, "abstain is 1.5; expected more than 0 and at most 1"),
        ({"collection": "town"}, InvalidRun, "documents of its own"),
        ({"compression": {"strategy": "zip", "rate": 2}}, InvalidRun, "'zip'; expected one of none, auto"),
        ({"compression": {"rate": 0.5}}, InvalidRun, "rate is 0.5; expected 1 to 1024"),
        ({"pipeline": "attended", "memory": {"rate": 8}}, InvalidRun, "memory policy is 'kv_compress'; expected"),
        ({"pipeline": "attended", "compression": {"rate": 8}}, InvalidRun, "strategy is 'perception'; expected"),
        ({"pipeline": "attended", "reading": "apart"}, InvalidRun, "pipeline 'attended' reads no passages"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_and_nothing_is_stored(
    desk: SmallDesk, harrow: bytes, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        begin(desk, harrow, replace(SETTINGS, **change))
    assert list_runs(desk.engine, 10) == []


def test_tasks_and_data_that_are_not_there_are_named(desk: SmallDesk, tmp_path: Path) -> None:
    def start(task: str, benchmarks: str, **options: Any) -> None:
        start_runs(desk.engine, [RunSettings(task=task, task_options=options, benchmarks=benchmarks)])

    with pytest.raises(UnknownTask, match="'trivia'; known: "):
        start("trivia", str(tmp_path))
    with pytest.raises(MissingData, match="/nowhere"):
        start("squad", "/nowhere")
    with pytest.raises(MissingData, match="dev-v1"):
        start("squad", str(tmp_path))
    with pytest.raises(InvalidTaskOption, match="colour"):
        start("squad", str(tmp_path), colour="red")
    with pytest.raises(InvalidTaskOption, match="gold_at is 20; expected 0 to 19"):
        start("nq", str(tmp_path), gold_at="20")
    with pytest.raises(UnknownDataset, match="nope"):
        start_runs(desk.engine, [SETTINGS], "nope")
    with pytest.raises(UnknownRun, match="nope"):
        get_run(desk.engine, "nope")
    with pytest.raises(InvalidDataset):
        add_dataset(desk.engine, "x.jsonl", b"{}")
    assert list_datasets(desk.engine, 10) == []
    dataset = add_dataset(desk.engine, "x.jsonl", jsonl(ROWS[0]))
    with pytest.raises(UnknownPipeline):
        start_runs(desk.engine, [SETTINGS, replace(SETTINGS, pipeline="best")], dataset)
    assert list_runs(desk.engine, 10) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"abstain": 0.5}, "abstain is 0.5"),
        ({"memory": {"rate": 8}}, "memory policy is 'kv_compress'"),
        ({"compression": {"rate": 2}}, "compression strategy is 'perception'"),
        ({"reading": "apart"}, "reading is 'apart'"),
        ({"adapter": "none"}, "adapter is 'none'"),
        ({"form": "long"}, "form is 'long'"),
    ],
)
def test_where_nothing_is_read_what_changes_only_reading_is_refused(
    change: dict[str, Any], named: str, desk: SmallDesk, tmp_path: Path
) -> None:
    settings = RunSettings(task="scifact", benchmarks=str(tmp_path), **change)
    with pytest.raises(InvalidRun, match=f"{named}; expected nothing, for scifact measures retrieval alone"):
        start_runs(desk.engine, [settings])


@pytest.mark.parametrize("options", [{}, {"memory": {"policy": "none"}, "compression": {"strategy": "none"}}])
def test_a_run_that_only_ranks_is_planned_again_from_what_was_stored_and_done(
    options: dict[str, Any], desk: SmallDesk, tmp_path: Path
) -> None:
    folder = tmp_path / "scifact"
    folder.mkdir()
    corpus = {"doc_id": 1, "title": "Tower", "abstract": ["The tower was finished in 1911."]}
    claim = {"id": 7, "claim": "The tower was finished in 1911."}
    for name, row in (("corpus.jsonl.gz", corpus), ("claims_train.jsonl.gz", claim)):
        (folder / name).write_bytes(gzip.compress(jsonl(row)))
    (folder / "qrels_train.tsv.gz").write_bytes(gzip.compress(b"query-id\tcorpus-id\tscore\n7\t1\t1\n"))
    (run,) = start_runs(desk.engine, [RunSettings(task="scifact", benchmarks=str(tmp_path), **options)])
    finish(desk, run)
    assert [score.values["recall_at_10"] for score in scores(desk, run)] == [1.0]


def test_a_data_set_is_kept_once(desk: SmallDesk, harrow: bytes) -> None:
    assert add_dataset(desk.engine, "a.jsonl", harrow) == add_dataset(desk.engine, "b.jsonl", harrow)
    assert [entry.num_examples for entry in list_datasets(desk.engine, 10)] == [3]


def test_a_data_set_is_deleted_with_its_runs_and_documents(desk: SmallDesk, harrow: bytes) -> None:
    run = begin(desk, harrow)
    with pytest.raises(InvalidRun, match="is queued; cancel it first"):
        desk.delete_dataset(run.dataset or "")
    finish(desk, run)
    cancel_run(desk.engine, run.id)
    other = begin(desk, jsonl(ROWS[0]))
    cancel_run(desk.engine, other.id)
    desk.delete_dataset(run.dataset or "")
    assert [one.id for one in list_runs(desk.engine, 10)] == [other.id]
    assert list_collections(desk.engine) == []
    assert scores(desk, run) == []
    delete_run(desk.engine, other.id)
    assert list_runs(desk.engine, 10) == []
    with pytest.raises(UnknownDataset):
        desk.delete_dataset(run.dataset or "")


def test_a_data_set_with_a_run_to_come_keeps_all_its_runs(desk: SmallDesk, harrow: bytes) -> None:
    waiting, over = begin(desk, harrow), begin(desk, harrow)
    cancel_run(desk.engine, over.id)
    with pytest.raises(InvalidRun, match=f"run {waiting.id} is queued; cancel it first"):
        desk.delete_dataset(over.dataset or "")
    assert [one.id for one in list_runs(desk.engine, 10)] == [over.id, waiting.id]


def test_the_worker_does_runs_and_a_cancelled_one_keeps_what_it_has(desk: SmallDesk) -> None:
    rows = [ROWS[0] | {"id": str(number)} for number in range(200)]
    cancelled, whole = begin(desk, jsonl(*rows)), begin(desk, jsonl(*rows[:3]))
    desk.start("evaluate")
    wait(lambda: get_run(desk.engine, cancelled.id).done >= 2)
    cancel_run(desk.engine, cancelled.id[:8])
    wait(lambda: get_run(desk.engine, whole.id).state == "succeeded")
    run = get_run(desk.engine, cancelled.id)
    assert run.state == "cancelled"
    assert 2 <= run.done < 200
    assert get_job(desk.engine, run.job_id).collection is None
    assert get_run(desk.engine, whole.id).done == 3
    assert [one.id for one in list_runs(desk.engine, 10, state=("succeeded",))] == [whole.id]


def test_a_desk_that_closes_leaves_its_run_to_the_next(desk: SmallDesk, model: ReaderModel, harrow: bytes) -> None:
    rows = [ROWS[0] | {"id": str(number)} for number in range(30)]
    run = begin(desk, jsonl(*rows))
    desk.start("evaluate")
    wait(lambda: get_run(desk.engine, run.id).done >= 2)
    desk.close()
    left = get_run(desk.engine, run.id)
    assert (left.state, left.error) == ("queued", None)
    another = SmallDesk(desk.settings, model)
    another.start("evaluate")
    wait(lambda: get_run(another.engine, run.id).state == "succeeded")
    assert [row.example_id for row in scores(another, run)] == [str(number) for number in range(30)]
    another.close()


def test_a_version_on_its_way_without_a_job_is_left_alone_for_a_day(desk: SmallDesk, harrow: bytes) -> None:
    run = begin(desk, harrow)

    def sweep_meanwhile(stage: str, done: int) -> None:
        if stage == "index":
            desk.start("ingest")
            desk._workers["ingest"].close()

    finish(desk, run, sweep_meanwhile)
    assert len(scores(desk, run)) == 3


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def test_a_run_keeps_where_its_data_lie_for_whichever_process_goes_on_with_it(
    database_url: str, tmp_path: Path, model: ReaderModel
) -> None:
    text = "The Harrow Tower was finished in 1911. It is 62 metres high."
    question = {"id": "q", "question": "When?", "answers": [{"text": "1911", "answer_start": 33}]}
    article = {"title": "Harrow_Tower", "paragraphs": [{"context": text, "qas": [question]}]}
    (tmp_path / "bench" / "squad").mkdir(parents=True)
    with gzip.open(tmp_path / "bench" / "squad" / "dev-v1.1.given.json.gz", "wt") as file:
        json.dump({"data": [article]}, file)
    one = SmallDesk(Settings(tmp_path / "one", database_url, shared_data=str(tmp_path / "bench")), model)
    [run] = one.start_runs([RunSettings(task="squad", pipeline="full", max_new_tokens=4)])
    one.close()
    other = SmallDesk(Settings(tmp_path / "one", database_url), model)
    other.start("evaluate")
    wait(lambda: get_run(other.engine, run.id).finished_at is not None)
    assert get_run(other.engine, run.id).error is None
    assert [row.example_id for row in scores(other, run)] == ["q"]
    other.close()
