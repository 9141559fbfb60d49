"""Runs whose passages are compressed: what is measured is what was read."""

from dataclasses import replace
from typing import Any

import pytest

from refdesk.reader.model import ReaderModel
from tests.eval.conftest import ROWS, SmallDesk, jsonl
from tests.eval.runs import SETTINGS, begin, finish, scores


@pytest.mark.parametrize("compression", [{"strategy": "auto"}, {"strategy": "sentences", "rate": 4}])
def test_what_does_not_fit_the_window_is_answered_where_it_is_compressed(
    compression: dict[str, Any], desk: SmallDesk, model: ReaderModel
) -> None:
    texts = [f"Somewhere is number {number}. " * 20 for number in range(8)]
    long = {"id": "long", "question": "Where?", "answers": ["here"], "documents": texts}
    rows = []
    for asked in (None, compression):
        run = begin(desk, jsonl(ROWS[0], long, ROWS[1]), replace(SETTINGS, pipeline="full", compression=asked))
        finish(desk, run)
        rows.append(scores(desk, run))
    assert "the full context takes" in str(rows[0][1].error)
    assert [score.error for score in rows[1]] == [None] * 3
    values = rows[1][1].values
    assert values["tokens_after"] < model.window < values["tokens_before"]
    assert values["prompt_tokens"] <= model.window
    assert values["seconds_total"] > values["seconds_compress"] > 0


def test_gold_that_was_taken_out_is_not_kept(desk: SmallDesk) -> None:
    kept = {}
    for budget in (3, 200):
        compression = {"strategy": "rerank", "budget": budget}
        run = begin(desk, jsonl(*ROWS[:2]), replace(SETTINGS, pipeline="oracle", compression=compression))
        finish(desk, run)
        kept[budget] = [score.values["kept_gold"] for score in scores(desk, run)]
    assert kept == {3: [0.0, 0.0], 200: [1.0, 1.0]}


def test_a_question_whose_passages_cannot_be_compressed_is_told_and_the_others_are_answered(
    desk: SmallDesk, model: ReaderModel
) -> None:
    texts = ["Somewhere. " * model.window, "Elsewhere."]
    long = {"id": "long", "question": "Where?", "answers": ["here"], "documents": texts}
    settings = replace(SETTINGS, pipeline="full", compression={"strategy": "rerank", "rate": 2})
    run = begin(desk, jsonl(ROWS[0], long, ROWS[1]), settings)
    finish(desk, run)
    first, second, third = scores(desk, run)
    assert (first.error, third.error) == (None, None)
    assert "more than the model's window of 1024" in str(second.error)
