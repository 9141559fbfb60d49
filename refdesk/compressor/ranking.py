"""Texts from most to least relevant, by how likely questions are behind them (methods 3.2.2)."""

from collections.abc import Sequence

from refdesk.compressor.scorer import TokenScorer

# That the answer is there is LongLLMLingua's restrictive statement (arXiv 2310.06839, section 4.1).
_FORM = "\n\nQuestion: {}\nAnswer: We can get the answer to this question in the given documents."


def rank(
    scorer: TokenScorer,
    documents: Sequence[tuple[int, ...]],
    questions: Sequence[str],
    weights: Sequence[float] = (1.0,),
) -> list[int]:
    """Indices of the documents (token ids) by the weighted sum of the questions' mean negative log-likelihoods
    behind them, the lowest first, of equals the earlier. One question alone ranks as in LongLLMLingua."""
    if len(documents) < 2:  # nothing to rank
        return list(range(len(documents)))
    asked = [scorer.tokens(_FORM.format(question))[0] for question in questions]
    losses = [
        sum(weight * nll for weight, nll in zip(weights, row, strict=True))
        for row in scorer.question_nll(documents, asked)
    ]
    return sorted(range(len(documents)), key=losses.__getitem__)
