"""What all strategies have in common: texts in, what stays of them out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from refdesk.compressor.compression import Compression, compression_of
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.scorer import TokenScorer
from refdesk.compressor.unit import TokenizedText, Unit, tokenize


@dataclass(frozen=True)
class Tools:
    """What strategies work with.

    `guide`: gives at most so many questions that help to answer a question, the most helpful first. `similarity`:
    of a question and others, the cosine of their embeddings. `split`: the sentences of a text as ascending
    `(start, end)`.
    """

    scorer: TokenScorer
    guide: Callable[[str, int], Sequence[str]] | None = None
    similarity: Callable[[str, Sequence[str]], Sequence[float]] | None = None
    split: Callable[[str], Sequence[tuple[int, int]]] | None = None


@dataclass(frozen=True)
class NoOptions:
    """Of strategies that have none."""


Options = TypeVar("Options")

# Tokens. A piece is about one thing, and most retrieved passages are no longer and stay whole.
_PIECE = 512
_TITLE = 64  # a longer one begins with what it is about


class Compressor(ABC, Generic[Options]):
    """A strategy with its tools and options. A new one says by `choose` what stays, and has a line in the table of
    `refdesk.compressor.strategies`."""

    option_type: ClassVar[type] = NoOptions  # a frozen dataclass
    asks: ClassVar[bool] = True  # whether what stays depends on the question

    def __init__(self, tools: Tools, options: Options) -> None:
        """Raises InvalidCompression where a tool is missing."""
        self.tools = tools
        self.options = options

    def compress(
        self, question: str, texts: Sequence[str], budget: int, titles: Sequence[str] = ()
    ) -> Compression:
        """What stays of the texts, `budget` tokens over all of them: exactly, or `reason` says why not. A long
        text is cut into pieces at the ends of sentences; these are chosen among as if each were a text. `titles`:
        what each stands under, if they are given; they are ranked so, but no title is taken out, or counted.

        Raises:
            InvalidCompression: a budget below one token.
        """
        if budget < 1:
            raise InvalidCompression(f"the budget is {budget}; expected at least 1 token")
        scorer, split = self.tools.scorer, self.tools.split
        half = scorer.window // 2  # the other one is for what is asked behind a piece
        heads = [
            scorer.tokens(f"Title: {title}\n")[0][: min(_TITLE, half // 2)] if title else ()
            for title in titles or [""] * len(texts)
        ]
        tokenized = [
            tokenize(scorer, index, text, tuple(end for _, end in split(text)) if split else (), head)
            for index, (text, head) in enumerate(zip(texts, heads, strict=True))
        ]
        most = min(_PIECE, max(half - max(map(len, heads), default=0), 1))
        kept = self.choose(question, [piece for text in tokenized for piece in text.pieces(most)], budget)
        return compression_of(tokenized, kept, budget, self.because)

    @classmethod
    def sizes(cls, options: Options) -> bool:
        """Whether it knows by these options, without a budget, how much is to stay."""
        return False

    @property
    def because(self) -> str:
        """Why the budget may not be met exactly."""
        return "a character of several tokens goes or stays whole"

    @abstractmethod
    def choose(self, question: str, texts: Sequence[TokenizedText], budget: int) -> Sequence[Unit]:
        """The units that stay, those of the best text first. `texts` are pieces, too, and none is empty."""
