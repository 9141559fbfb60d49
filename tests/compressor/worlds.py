"""A language model small enough to be computed by hand, and texts of a few words that say the same things again.

Its tokens are words, marks, and of characters beyond ASCII their bytes, so some characters are several tokens. The
probability of a token is that of a bigram model of all that was read before, smoothed by a unigram model of the
same, smoothed by the uniform one (MacKay and Peto 1995). What was said before is likelier to be said again, which
is all that the compressor needs of a model; nothing is looked up in a table of answers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum, log
from zlib import crc32

from hypothesis import strategies as st

from refdesk.compressor.compressor import Tools

VOCABULARY = 1024
_START = VOCABULARY  # stands in front of everything and is never predicted
_SMOOTHING = 2.0
_PIECE = re.compile(r" ?[A-Za-z]+|.", re.DOTALL)


@dataclass
class WorldPrior:
    """All that was read, in order."""

    read: tuple[int, ...]

    def keep(self, token_ids: tuple[int, ...]) -> None:
        self.read += token_ids


@dataclass
class World:
    """A `TokenScorer`; `scored` are the texts that it scored, with the number of their priors, and `ranked` those
    that questions were `asked` behind. What is longer than its `window` it refuses to read."""

    window: int = 4096
    scored: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    ranked: list[tuple[int, ...]] = field(default_factory=list)
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def tokens(self, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for piece in _PIECE.finditer(text):
            if piece[0].isascii():
                new = [256 + crc32(piece[0].encode()) % (VOCABULARY - 256)]
            else:
                new = list(piece[0].encode())
            ids += new
            spans += [piece.span(), *[(piece.end(), piece.end())] * (len(new) - 1)]
        return tuple(ids), tuple(spans)

    def question_nll(
        self, documents: Sequence[tuple[int, ...]], questions: Sequence[tuple[int, ...]]
    ) -> list[list[float]]:
        self.ranked += documents
        self.asked += questions
        return [
            [fsum(self._losses(document, question)) / len(question) for question in questions]
            for document in documents
        ]

    def begin(self, *texts: tuple[int, ...]) -> WorldPrior:
        return WorldPrior(sum(texts, ()))

    def nll(self, priors: Sequence[WorldPrior], token_ids: tuple[int, ...]) -> list[list[float]]:
        self.scored.append((token_ids, len(priors)))
        return [self._losses(prior.read, token_ids) for prior in priors]

    def _losses(self, prior: tuple[int, ...], token_ids: tuple[int, ...]) -> list[float]:
        assert len(prior) + len(token_ids) <= self.window
        return losses(prior, token_ids)


def losses(prior: tuple[int, ...], token_ids: tuple[int, ...]) -> list[float]:
    """Of each token the negative logarithm of its probability behind all before it."""
    read = (_START, *prior, *token_ids)
    return [-log(probability(read[:at], read[at])) for at in range(len(prior) + 1, len(read))]


def probability(read: tuple[int, ...], token_id: int) -> float:
    """That this token comes behind those read, the start among them."""
    unigram = (read.count(token_id) + _SMOOTHING / VOCABULARY) / (len(read) - 1 + _SMOOTHING)
    followers = [read[at + 1] for at in range(len(read) - 1) if read[at] == read[-1]]
    return (followers.count(token_id) + _SMOOTHING * unigram) / (len(followers) + _SMOOTHING)


def alike(question: str, others: Sequence[str]) -> list[float]:
    """By how many words they share, over all that they have."""
    words = set(question.split())
    return [len(words & set(other.split())) / len(words | set(other.split()) | {""}) for other in others]


def sentences(text: str) -> list[tuple[int, int]]:
    """What ends with a full stop."""
    return [match.span() for match in re.finditer(r"[^.\s][^.]*\.?", text)]


def tools(world: World | None = None) -> Tools:
    return Tools(world or World(), lambda question, count: question.split()[:count], alike, sentences)


_WORDS = ["the", "fox", "sees", "a", "hen", "and", "runs.", "Who", "is", "seen?", "中", "文", "🦊", "é", "\n"]
words = st.lists(st.sampled_from(_WORDS), max_size=24)
texts = words.map(" ".join)
plain_texts = st.lists(st.sampled_from([word for word in _WORDS if word.isascii()]), max_size=24).map(" ".join)
