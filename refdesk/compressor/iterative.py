"""Semi-guided iterative compression (arXiv 2409.19272; methods 3.2.5).

Segment by segment, every token is scored behind what was kept of the segments before, or behind nothing: once with
the question in front of it all and once without. By how much the question helps is the contrast.
"""

from collections.abc import Sequence

from refdesk.compressor.scorer import TokenScorer
from refdesk.compressor.selection import select, select_by_threshold
from refdesk.compressor.unit import Unit, size_of, token_ids_of, unit_means


def compress_segments(
    scorer: TokenScorer,
    question: tuple[int, ...],
    segments: Sequence[Sequence[Unit]],
    counts: Sequence[float],
    shares: Sequence[float],
    *,
    iterative: bool = True,
    reverse: bool = False,
    exact: bool = True,
) -> list[Unit]:
    """The units that stay, in order. `question`: its token ids. `iterative`: segments stand behind what was kept,
    which is read again for that.

    `counts`, `shares`: of each segment how many tokens stay, and which share of them the question chooses.
    A segment that stays or goes as a whole is not scored, nor one of a single character that is too large for
    what may stay; where no share is above 0, nothing is read behind the question. `exact`: counts are met, and
    what a segment misses for a character of several tokens is made up for by the next; else counts are met as the
    paper's thresholds meet them.
    """
    priors = [scorer.begin(), scorer.begin(question)] if any(shares) else [scorer.begin()]
    kept: list[Unit] = []
    owed = 0.0
    for segment, count, share in zip(segments, counts, shares, strict=True):
        size, asked = size_of(segment), count + owed
        if asked >= size:
            stays = list(segment)
        elif asked == 0 or (exact and len(segment) == 1):
            stays = []
        else:
            losses = scorer.nll(priors, token_ids_of(segment))
            unconditional, conditional = (unit_means(segment, losses[i]) for i in (0, -1))
            contrast = [u - c for u, c in zip(unconditional, conditional, strict=True)]
            if exact:
                sizes = [unit.size for unit in segment]
                chosen = select(unconditional, contrast, sizes, int(asked), share, reverse=reverse)
            else:
                chosen = select_by_threshold(unconditional, contrast, asked, share, reverse=reverse)
            stays = [segment[i] for i in chosen]
        owed = asked - size_of(stays) if exact else 0.0
        kept += stays
        if stays and iterative:
            for prior in priors:
                prior.keep(token_ids_of(stays))
    return kept
