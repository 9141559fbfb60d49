"""Metrics equal the official scripts and the reference libraries, and say nothing where they do not apply."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from refdesk.eval.errors import UnknownMetric
from refdesk.eval.example import Document, Example, Span
from refdesk.eval.metrics import METRICS, check_metrics
from refdesk.eval.metrics.grounding import kept_gold
from refdesk.eval.metrics.outcome import Outcome
from refdesk.eval.metrics.ranking import mrr_at, ndcg_at, recall_at
from refdesk.eval.metrics.text import containment, exact_match, normalise, rouge_l, token_f1
from refdesk.reader.citations import is_abstention
from refdesk.reader.qa import NOTHING_FOUND

OFFICIAL = json.loads((Path(__file__).parent / "fixtures" / "squad_official.json").read_text())["cases"]

TEXT = "In 1911 the tower was finished by Elin  Marsh. Elin Marsh was born in 1875."
DOCUMENT = Document("d", "Tower", TEXT)
OTHER = Document("o", "Market", "The market opens at seven.")
SENTENCE = TEXT.index(".") + 1
EXAMPLE = Example(
    "e",
    "Who finished the tower?",
    ("Elin Marsh", "Marsh"),
    (DOCUMENT, OTHER),
    gold=(Span("d", 0, SENTENCE),),
    relevance={"d": 1},
)
NOT_THERE = Example("n", "Who is the mayor?", (), (DOCUMENT,), gold=(Span("d", 0, SENTENCE),), answerable=False)


def value(metric: str, example: Example = EXAMPLE, **outcome: object) -> float | None:
    return METRICS[metric].score(example, replace(Outcome(""), **outcome))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: repr(case["prediction"]))
def test_exact_match_f1_and_containment_equal_the_official_scripts(case: dict[str, object]) -> None:
    prediction, answers = str(case["prediction"]), [str(answer) for answer in case["answers"]]  # type: ignore[attr-defined]
    assert max(containment(prediction, answer) for answer in answers) == case["contains"]
    found = [max(measure(prediction, answer) for answer in answers) for measure in (exact_match, token_f1)]
    (exact_v1, f1_v1), (_, f1_v2) = case["v1"], case["v2"]  # type: ignore[misc]
    assert found[0] == exact_v1
    # Where nothing is left of a text, v1.1 gives F1 0 even if nothing is left of both, and v2.0 passes over an
    # answer beside others. We give 1 to two that are equal, as both do for exact match.
    some_empty = not all(map(normalise, answers))
    if not (some_empty and len(answers) > 1):
        assert found[1] == pytest.approx(f1_v2)
    if not some_empty:
        assert found[1] == pytest.approx(f1_v1)


def test_an_answer_contains_a_right_one_whatever_stands_around_it() -> None:
    assert containment("It was finished by the Elin Marsh, in 1911.", "Elin Marsh") == 1.0
    assert containment("It was finished by Marsh.", "Elin Marsh") == 0.0
    assert value("contains", answer="By Marsh of course") == 1.0


def test_the_best_of_several_right_answers_counts() -> None:
    assert value("f1", answer="Marsh") == 1.0
    assert value("em", answer="the Marsh!") == 1.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Yes.", "yes"), ("No, but yes in part", "no"), ("It is maybe so", "maybe"), ("NO", "no")],
)
def test_the_first_choice_word_is_the_choice(answer: str, right: str) -> None:
    example = replace(EXAMPLE, answers=(right,))
    assert value("choice", example, answer=answer) == 1.0
    other = {"yes": "no", "no": "maybe", "maybe": "yes"}[right]
    assert value("choice", replace(EXAMPLE, answers=(other,)), answer=answer) == 0.0
    assert value("choice", example, answer="nobody knows the yesterdays") == 0.0


def test_rouge_l_equals_the_reference_library_and_its_published_example() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    # Lin 2004: "police killed the gunman" against "police kill the gunman" (stemmed: the same).
    assert rouge_l("police killed the gunman", "police kill the gunman") == 1.0
    assert rouge_l("the gunman kill police", "police kill the gunman") == pytest.approx(0.5)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for one, other in [(TEXT, OTHER.text), (TEXT, TEXT), ("", TEXT)]:
        assert rouge_l(one, other) == pytest.approx(scorer.score(other, one)["rougeL"].fmeasure)


def test_abstaining_is_right_exactly_where_there_is_no_answer() -> None:
    assert value("abstention", NOT_THERE, abstained=True) == 1.0
    assert value("abstention", NOT_THERE, abstained=False) == 0.0
    assert value("abstention", EXAMPLE, abstained=True) == 0.0
    assert value("abstention", EXAMPLE, abstained=False) == 1.0
    for metric in ("em", "f1"):
        assert value(metric, NOT_THERE, answer="It is not in the passages.", abstained=True) == 1.0
        assert value(metric, NOT_THERE, answer="Jane", abstained=False) == 0.0
    for metric in ("contains", "rouge_l", "nll", "kept_gold", "gold_cited"):
        assert value(metric, NOT_THERE, answer="Jane", nll=1.0) is None


@pytest.mark.parametrize(
    ("answer", "abstains"),
    [
        (NOTHING_FOUND, True),
        ("It cannot be found in them.", True),
        ("The passages do not mention the mayor. The tower is high.", True),
        ("The text does not provide this information.", True),
        ("The tower was finished in 1911.", False),
        ("It was finished in 1911. The passages do not say by whom.", False),
        ("He did not answer the door.", False),
        ("", False),
    ],
)
def test_an_abstention_is_told_from_an_answer(answer: str, abstains: bool) -> None:
    assert is_abstention(answer) is abstains


RANKED = st.lists(st.sampled_from([f"d{number}" for number in range(30)]), unique=True, max_size=30)
GRADES = st.dictionaries(st.sampled_from([f"d{number}" for number in range(40)]), st.integers(1, 3), min_size=1)


@given(ranking=RANKED.filter(len), relevance=GRADES)
def test_ranking_measures_equal_trec_eval(ranking: list[str], relevance: dict[str, int]) -> None:
    measures = {"ndcg_cut_10", "recall_10", "recip_rank"}
    run = {name: float(len(ranking) - rank) for rank, name in enumerate(ranking)}
    official = pytrec_eval.RelevanceEvaluator({"q": relevance}, measures).evaluate({"q": run})["q"]
    assert ndcg_at(ranking, relevance, 10) == pytest.approx(official["ndcg_cut_10"])
    assert recall_at(ranking, relevance, 10) == pytest.approx(official["recall_10"])
    assert mrr_at(ranking, relevance, len(ranking)) == pytest.approx(official["recip_rank"])


def test_ranking_measures_by_hand() -> None:
    relevance = {"a": 2, "b": 1, "z": 0}
    assert ndcg_at(["z", "b", "a"], relevance, 10) == pytest.approx((1 / 1.584963 + 2 / 2) / (2 + 1 / 1.584963))
    assert recall_at(["z", "b"], relevance, 2) == 0.5
    assert mrr_at(["z", "b", "a"], relevance, 10) == 0.5
    assert mrr_at(["z"] * 10 + ["a"], relevance, 10) == 0.0
    assert value("ndcg_at_10") is None
    assert value("ndcg_at_10", replace(EXAMPLE, relevance={}), ranking=("d",)) is None
    assert value("recall_at_10", ranking=("o", "d")) == 1.0


def test_a_search_that_finds_nothing_scores_nothing_rather_than_not_at_all() -> None:
    for metric in ("recall_at_10", "recall_at_100", "ndcg_at_10", "mrr_at_10"):
        assert value(metric, ranking=()) == 0.0


def kept(*spans: tuple[str, int, int]) -> float | None:
    return kept_gold(EXAMPLE, Outcome("", context=tuple(Span(*span) for span in spans)))


def test_kept_gold_is_the_share_of_the_answers_words_that_were_seen() -> None:
    start = TEXT.index("Elin")
    assert kept(("d", 0, len(TEXT))) == 1.0
    assert kept() == 0.0
    assert kept(("o", 0, 20)) == 0.0
    longer = replace(EXAMPLE, answers=("Elin Marsh",))  # two words, with two spaces between them in the text
    half = Outcome("", context=(Span("d", 0, start + 4),))
    assert kept_gold(longer, half) == 0.5
    cut = Outcome("", context=(Span("d", 0, start + 3), Span("d", start + 8, len(TEXT))))
    assert kept_gold(longer, cut) == 0.0  # neither word is whole
    # Elsewhere in the document the answer stands too, but there is no gold passage.
    assert kept_gold(longer, Outcome("", context=(Span("d", SENTENCE, len(TEXT)),))) == 0.0
    assert kept_gold(replace(longer, gold=()), Outcome("", context=(Span("d", SENTENCE, len(TEXT)),))) == 1.0
    assert kept_gold(replace(EXAMPLE, answers=("Jane",)), Outcome("")) is None
    # Gold that lies in no document that was given: there is nothing to keep.
    assert kept_gold(replace(EXAMPLE, gold=(Span("elsewhere", 0, 9),)), Outcome("")) is None


@given(cuts=st.lists(st.integers(0, len(TEXT)), min_size=4, max_size=4))
def test_seeing_more_never_keeps_less(cuts: list[int]) -> None:
    first, second, third, fourth = sorted(cuts)
    less = kept(("d", second, third))
    more = kept(("d", first, fourth))
    assert less is not None
    assert more is not None
    assert less <= more


@pytest.mark.parametrize(
    ("citations", "precision", "recall"),
    [
        ((), None, 0.0),
        ((Span("d", 3, 10),), 1.0, 1.0),
        ((Span("d", 3, 10), Span("d", SENTENCE + 1, len(TEXT))), 0.5, 1.0),
        ((Span("o", 0, 5),), 0.0, 0.0),
    ],
)
def test_citations_are_measured_against_gold_passages(
    citations: tuple[Span, ...], precision: float | None, recall: float
) -> None:
    assert value("cited_gold", citations=citations) == precision
    assert value("gold_cited", citations=citations) == recall


def test_citations_are_measured_by_document_where_only_that_is_known() -> None:
    example = replace(EXAMPLE, gold=(), relevance={"d": 1, "o": 1})
    assert value("cited_gold", example, citations=(Span("d", 60, 70), Span("x", 0, 1))) == 0.5
    assert value("gold_cited", example, citations=(Span("d", 60, 70),)) == 0.5
    unknown = replace(EXAMPLE, gold=(), relevance={})
    assert value("cited_gold", unknown, citations=(Span("d", 0, 1),)) is None
    assert value("gold_cited", unknown) is None


def test_unknown_and_doubled_metrics_are_named() -> None:
    assert check_metrics(["f1", "nll"]) == ("f1", "nll")
    for names, told in ((["f1", "f3"], "'f3'; known: em"), (["f1", "f1"], "'f1' stands twice"), ([], "no metric")):
        with pytest.raises(UnknownMetric, match=told):
            check_metrics(names)


def test_every_task_names_metrics_that_exist() -> None:
    from refdesk.eval.dataset import Dataset
    from refdesk.eval.tasks import TASKS

    named: Mapping[str, tuple[str, ...]] = {name: task.metrics for name, task in TASKS.items()}
    for metrics in [*named.values(), Dataset.metrics]:
        assert check_metrics(metrics) == metrics


def test_abstentions_have_a_precision_and_a_recall() -> None:
    assert value("abstention_precision", NOT_THERE, abstained=True) == 1.0
    assert value("abstention_precision", EXAMPLE, abstained=True) == 0.0
    assert value("abstention_precision", EXAMPLE, abstained=False) is None
    assert value("abstention_recall", NOT_THERE, abstained=True) == 1.0
    assert value("abstention_recall", NOT_THERE, abstained=False) == 0.0
    assert value("abstention_recall", EXAMPLE, abstained=True) is None


def test_an_answer_that_leaves_its_form_is_told() -> None:
    assert value("format") == 1.0
    assert value("format", well_formed=False) == 0.0
