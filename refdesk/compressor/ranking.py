"""Texts from most to least relevant, by how likely questions are behind them (methods 3.2.2), and how many are
needed."""

from collections.abc import Sequence
from math import exp, fsum

from refdesk.compressor.scorer import TokenScorer

_FORM = "\n\nQuestion: {}\nAnswer:"
_STATEMENT = " We can get the answer to this question in the given documents."

# Of the likelihood of a question: its tokens are no independent witnesses. At this, as many questions have what
# they need among what is enough as it promises (docs/results.md).
_TEMPER = 0.5


def question_losses(
    scorer: TokenScorer,
    documents: Sequence[tuple[int, ...]],
    questions: Sequence[str],
    weights: Sequence[float] = (1.0,),
    *,
    statement: bool = False,
) -> list[float]:
    """Of each document (token ids) the weighted sum of the questions' mean negative log-likelihoods behind it.
    `statement`: that the answer is there stands behind each question, and is part of the mean, as in the paper and
    in LongLLMLingua (arXiv 2310.06839, section 4.1); small models find gold less often with it."""
    form = _FORM + _STATEMENT if statement else _FORM
    asked = [scorer.tokens(form.format(question))[0] for question in questions]
    return [
        sum(weight * nll for weight, nll in zip(weights, row, strict=True))
        for row in scorer.question_nll(documents, asked)
    ]


def rank(losses: Sequence[float]) -> list[int]:
    """Indices of documents by their losses, the lowest first, of equals the earlier."""
    return sorted(range(len(losses)), key=losses.__getitem__)


def enough(losses: Sequence[float], tokens: int, belief: float) -> int:
    """How many documents must be read, best first, for the one that a question of `tokens` tokens is asked of to
    be among them with a probability of `belief`; `losses` are means over tokens.

    By Bayes' rule over documents that are equally likely beforehand, from the likelihood that ranks them: where
    one stands out it is alone, where none does all are needed.
    """
    best = min(losses, default=0.0)
    likelihoods = sorted((exp(_TEMPER * tokens * (best - loss)) for loss in losses), reverse=True)
    wanted, total = belief * fsum(likelihoods), 0.0
    for count, likelihood in enumerate(likelihoods, start=1):
        total += likelihood
        if total >= wanted:
            return count
    return len(likelihoods)
