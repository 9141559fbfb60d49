"""The strategies by name: Perception Compressor and what it is compared with, on the same scorer and contract.

The rivals rank texts as LongLLMLingua does (arXiv 2310.06839, section 4.1): by how likely they make the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refdesk.compressor.compressor import Compressor, NoOptions, Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.perception import PerceptionCompressor, PerceptionOptions, check_segment, thin
from refdesk.compressor.ranking import question_losses, rank
from refdesk.compressor.selection import fill
from refdesk.compressor.unit import TokenizedText, Unit


@dataclass(frozen=True)
class SegmentOptions:
    """`segment`: tokens that are scored and thinned at once.

    Raises:
        InvalidCompression: a value out of range.
    """

    segment: int = 200

    def __post_init__(self) -> None:
        check_segment(self.segment)

    @property
    def uniform(self) -> PerceptionOptions:
        """LLMLingua's way to thin (arXiv 2310.05736): one ratio for all, and the least likely tokens stay."""
        return PerceptionOptions(k1=0, tau_o=0, k2=0, segment=self.segment, reverse=True, belief=1)


class Rerank(Compressor[NoOptions]):
    """Whole texts in order, the last one cut at the budget."""

    def choose(self, question: str, texts: Sequence[TokenizedText], budget: int) -> list[Unit]:
        """The first tokens of the ranked texts."""
        return _first(_ranked(self.tools, question, texts), budget)


class Best(Compressor[NoOptions]):
    """The first text in order, cut at the budget; of a long one, its pieces in order."""

    @classmethod
    def sizes(cls, options: NoOptions) -> bool:
        """It always does."""
        return True

    @property
    def because(self) -> str:
        """Why the budget may not be met exactly."""
        return "only the best text may stay"

    def choose(self, question: str, texts: Sequence[TokenizedText], budget: int) -> list[Unit]:
        """The first tokens of the best text."""
        ranked = _ranked(self.tools, question, texts)
        return _first([text for text in ranked if text.index == ranked[0].index], budget)


class Likelihood(Compressor[SegmentOptions]):
    """Texts in order until the budget is crossed; these are thinned as LLMLingua does, without contrast."""

    option_type = SegmentOptions

    def choose(self, question: str, texts: Sequence[TokenizedText], budget: int) -> list[Unit]:
        """The least likely tokens of the best texts."""
        return PerceptionCompressor(self.tools, self.options.uniform).choose(question, texts, budget)


class Perplexity(Compressor[SegmentOptions]):
    """LLMLingua's token dropping (arXiv 2310.05736, section 3.2) over all texts as they come."""

    option_type = SegmentOptions
    asks = False

    def choose(self, question: str, texts: Sequence[TokenizedText], budget: int) -> list[Unit]:
        """The least likely tokens of all texts."""
        units = [unit for text in texts for unit in text.units]
        return thin(self.tools.scorer, question, units, budget, self.options.uniform)


class Sentences(Compressor[NoOptions]):
    """Whole sentences, as RECOMP's extractive compressor (arXiv 2310.04408, section 3.1), but in the order above
    instead of a trained encoder's; the last one is cut at the budget."""

    def __init__(self, tools: Tools, options: NoOptions) -> None:
        """Raises InvalidCompression where nothing splits texts into sentences."""
        if tools.split is None:
            raise InvalidCompression("compression strategy sentences needs a splitter of sentences, and has none")
        super().__init__(tools, options)

    def choose(self, question: str, texts: Sequence[TokenizedText], budget: int) -> list[Unit]:
        """The tokens of the best sentences."""
        sentences = [sentence for text in texts for sentence in text.sentences()]
        return _first(_ranked(self.tools, question, sentences), budget)


STRATEGIES: dict[str, type[Compressor[Any]]] = {
    "perception": PerceptionCompressor,
    "likelihood": Likelihood,
    "perplexity": Perplexity,
    "rerank": Rerank,
    "best": Best,
    "sentences": Sentences,
}


def _ranked(tools: Tools, question: str, texts: Sequence[TokenizedText]) -> list[TokenizedText]:
    return [texts[i] for i in rank(question_losses(tools.scorer, [text.titled for text in texts], [question]))]


def _first(texts: Sequence[TokenizedText], budget: int) -> list[Unit]:
    units = [unit for text in texts for unit in text.units]
    return [units[i] for i in fill(range(len(units)), [unit.size for unit in units], budget)]
