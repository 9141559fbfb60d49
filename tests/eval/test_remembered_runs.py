"""Runs whose documents are held in memories: what is attended to is what is measured."""

from dataclasses import replace
from typing import Any

import pytest

from refdesk.eval.errors import InvalidRun
from refdesk.reader.engine import Engine
from refdesk.reader.errors import EngineClosed
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.remember import RememberOptions, remember
from refdesk.reader.stream import Stream
from tests.eval.conftest import ROWS, SmallDesk, jsonl
from tests.eval.runs import SETTINGS, begin, finish, scores


class Stop(Exception):
    """What stops a run in these tests."""


def long_row(model: ReaderModel) -> dict[str, Any]:
    """A question about a document longer than the window."""
    text = "Somewhere is a tower. " * model.window + "The Harrow Tower was finished in 1911."
    return ROWS[0] | {"id": "long", "documents": [{"title": "Towers", "text": text, "gold": True}]}


def test_documents_longer_than_the_window_are_answered_over(desk: SmallDesk, model: ReaderModel) -> None:
    run = begin(desk, jsonl(ROWS[0], long_row(model), ROWS[1]), replace(SETTINGS, pipeline="attended", budget=300))
    finish(desk, run)
    rows = scores(desk, run)
    assert [score.error for score in rows] == [None] * 3
    for score in rows:
        assert score.values["prompt_tokens"] < 200  # documents are in no prompt
        assert score.values["nll"] > 0
    assert rows[0].values["nll"] != rows[1].values["nll"]


def test_a_budget_that_holds_all_of_short_documents_is_full_attention_to_them_side_by_side(
    desk: SmallDesk, model: ReaderModel
) -> None:
    found = []
    for settings in (
        replace(SETTINGS, pipeline="attended", budget=500),
        replace(SETTINGS, pipeline="full", reading="together"),
    ):
        one = ROWS[0] | {"documents": ROWS[0]["documents"][:1]}
        run = begin(desk, jsonl(one), replace(settings, form="short"))
        finish(desk, run)
        found.append(scores(desk, run)[0])
    assert found[0].answer == found[1].answer
    assert found[0].values["nll"] == pytest.approx(found[1].values["nll"], abs=1e-3)


@pytest.mark.parametrize("pipeline", ["document", "document_infinipot", "document_gold"])
def test_what_the_question_attends_to_in_documents_longer_than_the_window_is_read(
    desk: SmallDesk, model: ReaderModel, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[RememberOptions] = []

    def noting(submit: Any, model: Any, tokens: Any, front: Any, options: RememberOptions, **more: Any) -> Any:
        read.append(options)
        return remember(submit, model, tokens, front, options, **more)

    monkeypatch.setattr("refdesk.reader.remember.remember", noting)
    run = begin(desk, jsonl(ROWS[0], long_row(model)), replace(SETTINGS, pipeline=pipeline, k=1))
    finish(desk, run)
    rows = scores(desk, run)
    assert [(score.error, score.values["passages_used"]) for score in rows] == [(None, 1), (None, 1)]
    if pipeline == "document_gold":
        assert rows[0].values["kept_gold"] == 1
    (rate,) = {options.rate for options in read}
    assert rate == (8 if pipeline == "document_infinipot" else 1)


def test_without_heads_they_choose_nothing_and_the_run_says_so_at_once(desk: SmallDesk) -> None:
    run = begin(desk, jsonl(*ROWS), replace(SETTINGS, pipeline="document_locret"))
    with pytest.raises(
        InvalidRun,
        match="'document_locret' cannot be run: keep is 'locret'; expected infinipot or auto, for there are no",
    ):
        finish(desk, run)
    assert scores(desk, run) == []


def test_a_budget_that_what_is_near_uses_up_is_told_with_the_question(desk: SmallDesk) -> None:
    run = begin(desk, jsonl(*ROWS), replace(SETTINGS, pipeline="attended", budget=140))
    finish(desk, run)
    three, two, one = scores(desk, run)
    assert "budget is 140, but the 3 documents have" in str(three.error)
    assert three.values["nll"] is None
    assert (two.error, one.error) == (None, None)


class ClosingEngine(Engine):
    """Closed as soon as it is asked for anything."""

    def submit(self, request: GenerationRequest) -> Stream:
        stream = super().submit(request)
        self.close()
        return stream


def test_an_engine_that_closes_while_a_document_is_read_leaves_the_run_to_be_gone_on_with(
    desk: SmallDesk, model: ReaderModel
) -> None:
    desk.reader[1].close()
    desk._small = (model, ClosingEngine(model, chunk_tokens=1))
    run = begin(desk, jsonl(long_row(model)), replace(SETTINGS, pipeline="attended"))
    with pytest.raises(EngineClosed):
        finish(desk, run)
    assert scores(desk, run) == []


def test_a_run_can_be_stopped_while_a_document_is_read(desk: SmallDesk, model: ReaderModel) -> None:
    run = begin(desk, jsonl(ROWS[0], long_row(model)), replace(SETTINGS, pipeline="attended", budget=300))
    told: list[int] = []

    def progress(stage: str, done: int) -> None:
        if stage == "read":
            told.append(done)
        if told[-2:] == [1, 1]:  # two chunks of the second question's document
            raise Stop

    with pytest.raises(Stop):
        finish(desk, run, progress)
    assert len(scores(desk, run)) == 1
    finish(desk, run)
    assert [score.error for score in scores(desk, run)] == [None, None]
