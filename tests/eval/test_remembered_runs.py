"""Runs whose documents are held in memories: what is attended to is what is measured."""

from dataclasses import replace

import pytest

from refdesk.reader.model import ReaderModel
from tests.eval.conftest import ROWS, SmallDesk, jsonl
from tests.eval.runs import SETTINGS, begin, finish, scores


def test_documents_longer_than_the_window_are_answered_over(desk: SmallDesk, model: ReaderModel) -> None:
    text = "Somewhere is a tower. " * model.window + "The Harrow Tower was finished in 1911."
    long = ROWS[0] | {"id": "long", "documents": [{"title": "Towers", "text": text}]}
    run = begin(desk, jsonl(ROWS[0], long, ROWS[1]), replace(SETTINGS, pipeline="document", budget=300))
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
        replace(SETTINGS, pipeline="document", budget=500),
        replace(SETTINGS, pipeline="full", reading="together"),
    ):
        one = ROWS[0] | {"documents": ROWS[0]["documents"][:1]}
        run = begin(desk, jsonl(one), replace(settings, form="short"))
        finish(desk, run)
        found.append(scores(desk, run)[0])
    assert found[0].answer == found[1].answer
    assert found[0].values["nll"] == pytest.approx(found[1].values["nll"], abs=1e-3)


def test_without_heads_nothing_is_thinned_and_the_question_says_so(desk: SmallDesk) -> None:
    run = begin(desk, jsonl(ROWS[0]), replace(SETTINGS, pipeline="document_locret"))
    finish(desk, run)
    assert "there are no retaining heads" in str(scores(desk, run)[0].error)
