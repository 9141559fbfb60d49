"""A run is over the data that it began with, and finds what hangs on these alone."""

from dataclasses import replace
from typing import Any

import pytest

from refdesk.eval.dataset import read_dataset
from refdesk.eval.errors import InvalidRun
from refdesk.eval.example import Document, content_digest
from refdesk.eval.plan import make_plan
from refdesk.eval.runs import get_run, note_versions
from tests.eval.conftest import SmallDesk, jsonl
from tests.eval.runs import SETTINGS, begin, dataset_collections, finish, scores, without_times


def test_a_run_is_not_gone_on_with_by_another_model_or_over_other_data(desk: SmallDesk, harrow: bytes) -> None:
    run = begin(desk, harrow)
    finish(desk, run)
    versions = dict(get_run(desk.engine, run.id).versions)
    assert versions["model_fingerprint"] == "llama-test"
    note_versions(desk.engine, run.id, versions | {"model_fingerprint": "another"}, "")
    with pytest.raises(InvalidRun, match="began with model_fingerprint another, now it is llama-test"):
        finish(desk, run)
    note_versions(desk.engine, run.id, versions | {"data": "other"}, "")
    with pytest.raises(InvalidRun, match="other data"):
        finish(desk, run)


ROW: dict[str, Any] = {
    "question": "When was the tower finished?",
    "answers": ["1911"],
    "documents": [{"title": "Tower", "text": "In 1911.", "gold": True}, {"text": "Or was it in 1911?"}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"documents": [{"title": "Tower", "text": "In 1911."}, {"text": "Or was it in 1911?", "gold": True}]},
        {"documents": [{"title": "Tower", "text": "In 1911.", "gold": True}, {"text": "It was in 1911!"}]},
        {"documents": [{"title": "Spire", "text": "In 1911.", "gold": True}, {"text": "Or was it in 1911?"}]},
        {"answers": ["1911", "in 1911"]},
        {"answers": [], "unanswerable": True},
    ],
)
def test_whatever_is_known_of_a_question_makes_other_data(change: dict[str, Any]) -> None:
    first, same, other = (
        make_plan(SETTINGS, read_dataset(jsonl(row), "x.jsonl")).data_digest for row in (ROW, ROW, ROW | change)
    )
    assert first == same != other


def test_the_text_of_a_shared_document_makes_other_data() -> None:
    one, same, title, text = (
        content_digest([Document("a", "b", "c"), other])
        for other in (
            Document("d", "e", "f"),
            Document("d", "e", "f"),
            Document("d", "", "f"),
            Document("d", "e", ""),
        )
    )
    assert one == same and len({one, title, text}) == 3


def test_a_run_is_not_gone_on_with_over_a_collection_that_has_changed(desk: SmallDesk) -> None:
    store = desk.open_store(desk.create_collection("town"))
    store.add_texts(["The Harrow Tower was finished in 1911."], ids=["tower"])
    row = {"question": "When was the tower finished?", "answers": ["1911"], "relevant": ["tower"]}
    run = begin(desk, jsonl(row), replace(SETTINGS, collection="town"))
    finish(desk, run)
    finish(desk, run)
    store.add_texts(["The market opens at seven."], ids=["market"])
    with pytest.raises(InvalidRun, match=r"began with collection town \w+ at revision 1, now it is town"):
        finish(desk, run)


@pytest.mark.parametrize("pipeline", ["oracle_k", "top_k"])
def test_what_is_found_does_not_hang_on_what_was_evaluated_before(
    desk: SmallDesk, harrow: bytes, pipeline: str
) -> None:
    settings = replace(SETTINGS, pipeline=pipeline, limit=1, k=3)
    alone = begin(desk, harrow, settings)
    finish(desk, alone)
    finish(desk, begin(desk, harrow, replace(SETTINGS, pipeline=pipeline)))
    again = begin(desk, harrow, settings)
    finish(desk, again)
    assert without_times(scores(desk, again)) == without_times(scores(desk, alone))
    assert len(dataset_collections(desk, alone)) == 2


@pytest.mark.parametrize(("pipeline", "recall"), [("oracle_k", None), ("top_k", 1.0)])
def test_gold_passages_in_random_order_are_no_ranking(
    desk: SmallDesk, harrow: bytes, pipeline: str, recall: float | None
) -> None:
    run = begin(desk, harrow, replace(SETTINGS, pipeline=pipeline, k=10))
    finish(desk, run)
    assert [score.values["recall_at_10"] for score in scores(desk, run)] == [recall] * 3


def test_a_lexical_search_that_finds_nothing_counts_as_nothing_found(desk: SmallDesk) -> None:
    row = {"question": "xylophone?", "answers": ["x"], "documents": [{"text": "The market.", "gold": True}]}
    run = begin(desk, jsonl(row), replace(SETTINGS, search="lexical", k=10))
    finish(desk, run)
    assert scores(desk, run)[0].values["recall_at_10"] == 0.0
