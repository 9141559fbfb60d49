"""What each pipeline lets the reader see, exact to the character."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refdesk.eval.example import Document, Example, Span
from refdesk.eval.metrics import METRICS
from refdesk.eval.metrics.outcome import Outcome
from refdesk.eval.pipelines import PIPELINES, Workbench, sees_question, spans
from refdesk.reader.errors import PromptTooLong
from refdesk.reader.held_text import HeldText
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage

TEXTS = (
    "The Harrow Tower was finished in 1911. It is 62 metres high. café 東京 🎉",
    "The Harrow Bridge was designed by Elin Marsh. It crosses the river Tarn.",
    "The market of Harrow opens on Saturdays at seven.",
)
DOCUMENTS = tuple(Document(f"d{i}", f"Title {i}", text) for i, text in enumerate(TEXTS))
EXAMPLE = Example("e", "When?", ("1911",), DOCUMENTS, (Span("d0", 0, 38), Span("d2", 4, 20)), {"d0": 1, "d2": 1})


def bench(model: ReaderModel, budget: int = 512, max_new_tokens: int = 16) -> Workbench:
    def retrieve(question: str, k: int, sources: tuple[str, ...] | None) -> list[Passage]:
        found = [document for document in DOCUMENTS if sources is None or document.id in sources]
        return [Passage(d.id, d.title, d.text, 0, len(d.text), 1.0) for d in found[:k]]

    corpus = {document.id: document for document in DOCUMENTS}
    return Workbench(model, budget, model.window, max_new_tokens, retrieve, lambda: corpus)


def seen(name: str, workbench: Workbench, example: Example = EXAMPLE, k: int = 2) -> list[tuple[str, int, int]]:
    found = PIPELINES[name].select(example, workbench)(example.question, k, None)
    for passage in found:
        text = TEXTS[int(passage.document_id[1:])]
        assert text[passage.start : passage.end] == passage.text
    return [(passage.document_id, passage.start, passage.end) for passage in found]


def test_each_pipeline_shows_what_its_name_says(model: ReaderModel) -> None:
    workbench = bench(model)
    whole = [(document.id, 0, len(document.text)) for document in DOCUMENTS]
    assert seen("closed_book", workbench) == []
    assert seen("oracle", workbench) == [("d0", 0, 38), ("d2", 4, 20)]
    assert seen("full", workbench) == whole
    assert seen("top_k", workbench) == whole[:2]
    assert seen("top_k_gold", workbench) == [whole[0], whole[2]]


def test_relevant_documents_are_those_that_the_question_is_about(model: ReaderModel) -> None:
    assert list(bench(model).relevant(EXAMPLE)) == ["d0", "d2"]
    corpus = Example("e", "When?", ("1911",), relevance={"d1": 1})
    assert list(bench(model).relevant(corpus)) == ["d1"]


def test_a_corpus_stands_in_for_documents_of_ones_own(model: ReaderModel) -> None:
    bare = Example("e", "When?", ("1911",), gold=(Span("d1", 0, 5),))
    assert seen("oracle", bench(model), bare) == [("d1", 0, 5)]
    assert len(seen("full", bench(model), bare)) == 3


def test_the_full_context_is_refused_rather_than_cut(model: ReaderModel) -> None:
    with pytest.raises(PromptTooLong, match="the full context"):
        seen("full", bench(model, max_new_tokens=model.window - 20))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(2, 200))
def test_truncation_keeps_the_head_and_the_tail_of_exactly_the_budget(model: ReaderModel, budget: int) -> None:
    workbench = bench(model, budget)
    kept = seen("truncation", workbench)
    every = [(d.id, *offsets) for d in DOCUMENTS for offsets in workbench.offsets(d)]
    if len(every) <= budget:
        assert kept == [(document.id, 0, len(document.text)) for document in DOCUMENTS]
        return
    head, tail = every[: budget - budget // 2], every[len(every) - budget // 2 :]
    covered = {(d, i) for d, start, end in kept for i in range(start, end)}
    assert covered >= {(d, i) for d, start, end in head + tail for i in range(start, end)}
    cut = [
        token for token in every if not any(token[0] == d and token[1] < e and s < token[2] for d, s, e in kept)
    ]
    # A character of several tokens may stand on both sides of the cut.
    assert len(every) - budget - 6 <= len(cut) <= len(every) - budget


def test_the_gold_passages_stand_among_the_best_wrong_ones(model: ReaderModel) -> None:
    example = Example("e", "When?", ("1911",), DOCUMENTS, (Span("d0", 0, 38),), {"d0": 1})
    gold, wrong = ("d0", 0, 38), [(document.id, 0, len(document.text)) for document in DOCUMENTS[1:]]
    assert seen("oracle_k", bench(model), example, k=1) == [gold]
    assert set(seen("oracle_k", bench(model), example, k=2)) == {gold, wrong[0]}
    assert set(seen("oracle_k", bench(model), example, k=9)) == {gold, *wrong}
    assert seen("oracle_k", bench(model), example, k=3) == seen("oracle_k", bench(model), example, k=3)
    places = {
        seen("oracle_k", bench(model), Example(str(i), "When?", ("1911",), DOCUMENTS, example.gold), k=3).index(
            gold
        )
        for i in range(30)
    }
    assert places == {0, 1, 2}


def test_a_passage_that_holds_the_answer_is_no_wrong_one(model: ReaderModel) -> None:
    example = Example("e", "What opens?", ("market of harrow",), DOCUMENTS, (Span("d1", 0, 5),), {"d1": 1})
    assert {document for document, _, _ in seen("oracle_k", bench(model), example, k=9)} == {"d0", "d1"}


@pytest.mark.parametrize(
    ("kept", "share"),
    [(None, 1.0), (((0, 38),), 1.0), (((0, 10), (33, 37)), 1.0), (((0, 33), (38, 60)), 0.0), ((), 0.0)],
)
def test_what_was_taken_out_of_a_passage_is_not_kept(
    kept: tuple[tuple[int, int], ...] | None, share: float
) -> None:
    passage = Passage("d0", "Title 0", TEXTS[0], 0, len(TEXTS[0]), 1.0, kept=kept)
    example = Example("e", "When?", ("1911",), DOCUMENTS, (Span("d0", 0, 38),))
    assert METRICS["kept_gold"].score(example, Outcome("", context=spans([passage]))) == share


def test_a_word_of_which_entries_were_evicted_is_kept_by_the_share_that_is_held() -> None:
    passage = Passage("d0", "Title 0", TEXTS[0], 0, len(TEXTS[0]), 1.0)
    example = Example("e", "When?", ("1911",), DOCUMENTS, (Span("d0", 0, 38),))
    start = TEXTS[0].index("1911")
    held = (
        HeldText("d0", 0, start, 0.9),
        HeldText("d0", start, start + 2, 0.5),
        HeldText("d0", start + 2, start + 4, 0.25),
        HeldText("d1", start, start + 4, 1.0),
    )
    outcome = Outcome("", context=spans([passage]), held=(held,))
    assert METRICS["kept_gold"].score(example, outcome) == pytest.approx(0.375)
    copy = (HeldText("d0", start - 3, start + 9, 0.75),)  # of another passage that overlaps
    outcome = Outcome("", context=spans([passage, passage]), held=(held, copy))
    assert METRICS["kept_gold"].score(example, outcome) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("pipeline", "memory", "sees"),
    [
        ("full apart", {"policy": "kv_compress", "rate": 8}, False),
        ("full apart", {"policy": "auto"}, False),
        ("full apart", {"policy": "locret", "rate": 8}, False),
        ("full apart", {"policy": "locret_q", "rate": 8}, True),
        ("full apart", {"policy": "infinipot_q", "rate": 8}, True),
        ("full", None, False),
        ("full", {"policy": "locret", "rate": 8}, False),
        ("full", {"policy": "infinipot", "rate": 8}, False),
        ("full", {"policy": "streaming", "rate": 8}, False),
        ("full", {"policy": "random", "rate": 8}, False),
        ("full", {"policy": "locret_q", "rate": 8}, True),
        ("full", {"policy": "infinipot_q", "rate": 8}, True),
        ("full", {"policy": "kv_compress", "rate": 8}, True),
        ("full", {"policy": "snapkv", "rate": 8}, True),
        ("full", {"policy": "auto"}, True),
        ("top_k", None, True),
        ("closed_book", {"policy": "locret_q", "rate": 8}, False),
    ],
)
def test_what_is_evicted_by_the_question_is_told_from_what_is_not(
    pipeline: str, memory: dict[str, Any] | None, sees: bool
) -> None:
    name, *reading = pipeline.split()
    settings = {"memory": memory, "reading": reading[0] if reading else "together"}
    assert sees_question(name, settings) is sees


def test_a_stretch_that_is_read_is_told_where_it_stands_in_its_document() -> None:
    passage = Passage("d0", "Title 0", TEXTS[0][4:40], 4, 40, 1.0, kept=((0, 12), (29, 33)))
    read = [TEXTS[0][span.start : span.end] for span in spans([passage])]
    assert read == ["Harrow Tower", "1911"]
