"""What is measured of an answer, by name. A new metric is a function and a line in `METRICS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from refdesk.eval.errors import UnknownMetric
from refdesk.eval.example import Example
from refdesk.eval.metrics.grounding import cited_gold, gold_cited, kept_gold
from refdesk.eval.metrics.outcome import Outcome
from refdesk.eval.metrics.ranking import mrr_at, ndcg_at, recall_at
from refdesk.eval.metrics.text import (
    abstention,
    abstention_precision,
    abstention_recall,
    best_of,
    best_or_abstained,
    choice,
    containment,
    exact_match,
    rouge_l,
    token_f1,
)


@dataclass(frozen=True)
class Metric:
    """`score` gives None where the metric does not apply to a question. `depth`: so many documents of the ranking
    it looks at."""

    description: str
    score: Callable[[Example, Outcome], float | None]
    higher_is_better: bool = True
    depth: int = 0


def _nll(example: Example, outcome: Outcome) -> float | None:
    return outcome.nll if example.answerable else None


def _ranked(description: str, measure: Callable[..., float], depth: int) -> Metric:
    def score(example: Example, outcome: Outcome) -> float | None:
        if outcome.ranking is None or not any(grade > 0 for grade in example.relevance.values()):
            return None
        return measure(outcome.ranking, example.relevance, depth)

    return Metric(description, score, depth=depth)


METRICS: dict[str, Metric] = {
    "em": Metric("exact match after SQuAD's normalisation, 0 to 1", partial(best_or_abstained, exact_match)),
    "f1": Metric("F1 of words after SQuAD's normalisation, 0 to 1", partial(best_or_abstained, token_f1)),
    "contains": Metric("the answer contains a right one, normalised, 0 or 1", partial(best_of, containment)),
    "choice": Metric("the first yes, no or maybe is the right one, 0 or 1", partial(best_of, choice)),
    "rouge_l": Metric("ROUGE-L F-measure of stemmed words, 0 to 1", partial(best_of, rouge_l)),
    "abstention": Metric("says that it cannot be found exactly where that is right, 0 or 1", abstention),
    "abstention_precision": Metric(
        "where it says that it cannot be found: that is right, 0 or 1", abstention_precision
    ),
    "abstention_recall": Metric("where it cannot be found: the answer says so, 0 or 1", abstention_recall),
    "format": Metric(
        "the answer keeps to its form and quotes nothing that is not there, 0 or 1",
        lambda _example, outcome: float(outcome.well_formed),
    ),
    "nll": Metric(
        "negative log-likelihood of the first right answer, nats per token, given what the reader has in memory",
        _nll,
        higher_is_better=False,
    ),
    "kept_gold": Metric("share of the gold answer's words that the reader saw and holds, 0 to 1", kept_gold),
    "cited_gold": Metric("share of citations that touch a gold passage, 0 to 1", cited_gold),
    "gold_cited": Metric("share of gold passages that a citation touches, 0 to 1", gold_cited),
    "recall_at_10": _ranked("share of relevant documents among the first 10, 0 to 1", recall_at, 10),
    "recall_at_100": _ranked("share of relevant documents among the first 100, 0 to 1", recall_at, 100),
    "ndcg_at_10": _ranked("discounted gain of the first 10 over the best there can be, 0 to 1", ndcg_at, 10),
    "mrr_at_10": _ranked("one over the rank of the first relevant document, 0 below the tenth", mrr_at, 10),
}


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if all are known. Raises UnknownMetric, naming the one that is not, or that stands twice."""
    for name in names:
        if name not in METRICS:
            raise UnknownMetric(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
        if list(names).count(name) > 1:
            raise UnknownMetric(f"metric {name!r} stands twice")
    if not names:
        raise UnknownMetric(f"no metric; known: {', '.join(METRICS)}")
    return tuple(names)
