"""Texts from most to least relevant, by how likely questions are behind them (methods 3.2.2), and how many are
needed."""

from collections.abc import Sequence
from math import exp, fsum

from refdesk.compressor.scorer import TokenScorer

# That the answer is there is LongLLMLingua's restrictive statement (arXiv 2310.06839, section 4.1).
_FORM = "\n\nQuestion: {}\nAnswer: We can get the answer to this question in the given documents."


def question_losses(
    scorer: TokenScorer,
    documents: Sequence[tuple[int, ...]],
    questions: Sequence[str],
    weights: Sequence[float] = (1.0,),
) -> list[float]:
    """Of each document (token ids) the weighted sum of the questions' mean negative log-likelihoods behind it."""
    asked = [scorer.tokens(_FORM.format(question))[0] for question in questions]
    return [
        sum(weight * nll for weight, nll in zip(weights, row, strict=True))
        for row in scorer.question_nll(documents, asked)
    ]


def rank(losses: Sequence[float]) -> list[int]:
    """Indices of documents by their losses, the lowest first, of equals the earlier. With those of one question
    this ranks as LongLLMLingua does."""
    return sorted(range(len(losses)), key=losses.__getitem__)


def enough(losses: Sequence[float], tokens: int, belief: float) -> int:
    """How many documents must be read, best first, for the one that a question of `tokens` tokens is asked of to
    be among them with a probability of `belief`; `losses` are means over tokens.

    By Bayes' rule over documents that are equally likely beforehand, from the likelihood that ranks them: where
    one stands out it is alone, where none does all are needed. That likelihood is tempered: the mean is over the
    question and the statement behind it, and counts for as many tokens as the question alone has. So it was
    measured (docs/results.md, "How many passages are enough").
    """
    best = min(losses, default=0.0)
    likelihoods = sorted((exp(tokens * (best - loss)) for loss in losses), reverse=True)
    wanted, total = belief * fsum(likelihoods), 0.0
    for count, likelihood in enumerate(likelihoods, start=1):
        total += likelihood
        if total >= wanted:
            return count
    return len(likelihoods)
