"""The compressor's only door to a model."""

from collections.abc import Sequence
from typing import Any, Protocol


class Prior(Protocol):
    """What a model has read so far."""

    def keep(self, token_ids: tuple[int, ...]) -> None:
        """Let it end with these from now on; they are read once."""
        ...


class TokenScorer(Protocol):
    """Tokens, and how likely a model finds them. Negative log-likelihoods are in nats."""

    @property
    def window(self) -> int:
        """The most tokens that one reading may have, what stands in front and what is scored together."""
        ...

    def tokens(self, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """The token ids of a text, and the characters `[start, end)` of each.

        The spans cover the text in order and without gaps; of the tokens of one character, all but one have empty
        spans. An empty text has no tokens.
        """
        ...

    def question_nll(
        self, documents: Sequence[tuple[int, ...]], questions: Sequence[tuple[int, ...]]
    ) -> list[list[float]]:
        """The mean over its tokens of each question behind each document, `[documents][questions]`."""
        ...

    def begin(self, *texts: tuple[int, ...]) -> Prior:
        """A reading that begins with these texts; an empty one counts for nothing."""
        ...

    def nll(self, priors: Sequence[Any], token_ids: tuple[int, ...]) -> list[list[float]]:
        """Of each token behind each prior that `begin` gave, `[priors][tokens]`, in one batch. Keeps nothing."""
        ...
