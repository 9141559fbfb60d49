"""Answers against references, in words: SQuAD's measures, choices, ROUGE-L, abstention.

For several right answers the best one counts. Everything is in 0..1, higher is better.
"""

import re
import string
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from refdesk.eval.example import Example
from refdesk.eval.metrics.outcome import Outcome

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHOICE = re.compile(r"\b(yes|no|maybe)\b", re.IGNORECASE)


def normalise(text: str) -> str:
    """As SQuAD's official evaluation compares: lower case, no ASCII punctuation, no articles, single spaces
    (Rajpurkar et al., EMNLP 2016, evaluate-v1.1)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if both are equal once normalised."""
    return float(normalise(prediction) == normalise(answer))


def token_f1(prediction: str, answer: str) -> float:
    """F1 of the normalised words, each as often as it stands in both (SQuAD's official evaluation)."""
    predicted, right = normalise(prediction).split(), normalise(answer).split()
    common = sum((Counter(predicted) & Counter(right)).values())
    if not predicted or not right:  # v2.0's rule: nothing is right only where nothing was expected
        return float(predicted == right)
    return 2 * common / (len(predicted) + len(right))


def containment(prediction: str, answer: str) -> float:
    """1.0 if the normalised answer is part of the normalised prediction (best_subspan_em of 2307.03172)."""
    return float(normalise(answer) in normalise(prediction))


def rouge_l(prediction: str, answer: str) -> float:
    """F-measure of the longest common subsequence of stemmed words (Lin, 2004)."""
    return float(_scorer().score(answer, prediction)["rougeL"].fmeasure)


def choice(prediction: str, answer: str) -> float:
    """1.0 if the first yes, no or maybe of the prediction is the answer (PubMedQA, Jin et al., EMNLP 2019)."""
    found = _CHOICE.search(prediction)
    return float(found is not None and found[0].lower() == answer.strip().lower())


def best_of(measure: Callable[[str, str], float], example: Example, outcome: Outcome) -> float | None:
    """The best over the right answers; None for a question that has none."""
    return max((measure(outcome.answer, answer) for answer in example.answers), default=None)


def best_or_abstained(measure: Callable[[str, str], float], example: Example, outcome: Outcome) -> float | None:
    """As `best_of`, but a question that cannot be answered has the empty answer, which an abstention gives
    (SQuAD v2.0). Questions that can be answered are scored by what is said."""
    return best_of(measure, example, outcome) if example.answerable else float(outcome.abstained)


def abstention(example: Example, outcome: Outcome) -> float:
    """1.0 if the answer says that it cannot be found exactly where that is right."""
    return float(outcome.abstained != example.answerable)


def abstention_precision(example: Example, outcome: Outcome) -> float | None:
    """Over all questions, the share of abstentions that are right; None for an answer that is none."""
    return float(not example.answerable) if outcome.abstained else None


def abstention_recall(example: Example, outcome: Outcome) -> float | None:
    """Over all questions, the share of those without an answer that get an abstention; None for the others."""
    return None if example.answerable else float(outcome.abstained)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import

    return RougeScorer(["rougeL"], use_stemmer=True)
