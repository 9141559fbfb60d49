"""Rankings of documents against graded relevance, as trec_eval measures them. In 0..1, higher is better.

A ranking holds each document once, and at least one document is relevant.
"""

from collections.abc import Mapping, Sequence
from math import log2


def recall_at(ranking: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """The share of the relevant documents that are among the first `k`."""
    relevant = {document for document, grade in relevance.items() if grade > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant)


def ndcg_at(ranking: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """Discounted cumulative gain of the first `k` over the best there can be: grade / log2(rank + 1), ranks from 1
    (Järvelin and Kekäläinen, 2002, in trec_eval's form)."""
    ideal = sorted((grade for grade in relevance.values() if grade > 0), reverse=True)
    return _gain([max(relevance.get(document, 0), 0) for document in ranking[:k]]) / _gain(ideal[:k])


def mrr_at(ranking: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """One over the rank of the first relevant document; 0 if there is none among the first `k`."""
    ranks = (rank for rank, document in enumerate(ranking[:k], start=1) if relevance.get(document, 0) > 0)
    return 1 / next(ranks, float("inf"))


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / log2(rank + 1) for rank, grade in enumerate(grades, start=1))
