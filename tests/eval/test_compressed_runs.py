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


def test_a_document_longer_than_the_window_is_compressed(desk: SmallDesk, model: ReaderModel) -> None:
    long = {"id": "long", "question": "Where?", "answers": ["here"], "documents": ["Somewhere. " * model.window]}
    settings = replace(SETTINGS, pipeline="full", compression={"strategy": "rerank", "rate": 32})
    run = begin(desk, jsonl(ROWS[0], long), settings)
    finish(desk, run)
    _, second = scores(desk, run)
    assert second.error is None
    assert second.values["tokens_after"] == second.values["tokens_before"] // 32 < model.window


def test_a_question_whose_passages_cannot_be_compressed_is_told_and_the_others_are_answered(
    desk: SmallDesk, model: ReaderModel
) -> None:
    long = {"id": "long", "question": "Where? " * 400, "answers": ["here"], "documents": ["There. " * 800]}
    settings = replace(SETTINGS, pipeline="full", compression={"strategy": "rerank", "rate": 2})
    run = begin(desk, jsonl(ROWS[0], long, ROWS[1]), settings)
    finish(desk, run)
    first, second, third = scores(desk, run)
    assert (first.error, third.error) == (None, None)
    assert second.error


def test_guiding_questions_of_a_row_rank_where_the_run_asks_for_some(desk: SmallDesk) -> None:
    texts = [{"title": name, "text": f"{name} lies by the sea. "} for name in ("Harrow", "Tarn", "Marsh")]
    row = {"id": "sea", "question": "Where?", "answers": ["sea"], "documents": texts}
    guided = [row | {"id": str(number), "guiding": [text["text"]]} for number, text in enumerate(texts)]
    kept = {}
    for guiding in (0, 1):
        compression = {"rate": 2, "guiding": guiding}
        run = begin(desk, jsonl(row, *guided), replace(SETTINGS, pipeline="full", compression=compression))
        finish(desk, run)
        assert [score.error for score in scores(desk, run)] == [None] * 4
        kept[guiding] = [score.values["nll"] for score in scores(desk, run)]
    assert len(set(kept[0])) == 1
    assert len(set(kept[1])) > 1
