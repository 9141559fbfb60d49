"""Perception Compressor (arXiv 2409.19272): what stays is chosen for the question, without any training."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from refdesk.compressor.allocator import guided_shares, keep_counts, keep_ratios
from refdesk.compressor.coarse import base_ratio, retain
from refdesk.compressor.compressor import Compressor, Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.iterative import compress_segments
from refdesk.compressor.ranking import enough, question_losses, rank
from refdesk.compressor.scorer import TokenScorer
from refdesk.compressor.unit import TokenizedText, Unit, packed, size_of


@dataclass(frozen=True)
class PerceptionOptions:
    """The defaults are the paper's for NaturalQuestions, but for guiding questions, which cost a generation.

    `k1`: how steeply the keep ratio falls with the rank. `tau_o`: the share of kept tokens that the question
    chooses; `k2`: how steeply it grows with the rank. `segment`: tokens that are scored and thinned at once.
    `iterative`: tokens are scored behind what was kept of those in front; without, each segment by itself, which
    takes half the time. `reverse`: of what the question does not choose, the least likely tokens stay instead of
    the likeliest. `guiding`: how many guiding questions rank the texts beside the question; the first of
    `questions`, or made for the question where none are given. `exact`: the budget is met exactly; without, ratios
    are clamped and thresholds cut as in the paper's code. `ranked`: texts are ranked; without, they stay in the
    order in which they came. `belief`: of ranked texts no more stay than hold what is asked for with this
    probability, so that a budget may not be used up; 1 for as many as it has room for, which is the paper's.
    `statement`: questions rank with the statement behind them that the answer is there, which is the paper's.

    Raises:
        InvalidCompression: a value out of range.
    """

    k1: float = 0.4
    tau_o: float = 0.2
    k2: float = 0.1
    segment: int = 200
    iterative: bool = True
    guiding: int = 0
    questions: tuple[str, ...] = ()
    reverse: bool = False
    exact: bool = True
    ranked: bool = True
    belief: float = 0.9
    statement: bool = False

    def __post_init__(self) -> None:
        for name in ("k1", "tau_o", "k2", "belief"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidCompression(f"compression option {name} is {getattr(self, name)}; expected 0 to 1")
        check_segment(self.segment)
        if not 0 <= self.guiding <= 16:
            raise InvalidCompression(f"compression option guiding is {self.guiding}; expected 0 to 16 questions")
        if self.questions and not self.guiding:
            raise InvalidCompression(
                f"compression option guiding is 0, but {len(self.questions)} questions are given; expected how"
                " many of them rank"
            )
        if not all(map(str.strip, self.questions)):
            raise InvalidCompression(
                f"compression option questions is {[*self.questions]}; expected at least one word in each"
            )
        if self.guiding and not self.ranked:
            raise InvalidCompression(
                f"compression option guiding is {self.guiding}, but ranked is false; expected 0, for guiding"
                " questions only rank"
            )


class PerceptionCompressor(Compressor[PerceptionOptions]):
    """Texts are ranked by the question and guiding questions, the worst dropped whole, and what is still too much
    taken out token by token: most of it from the texts ranked low."""

    option_type = PerceptionOptions

    def __init__(self, tools: Tools, options: PerceptionOptions) -> None:
        """Raises InvalidCompression for guiding questions that nothing makes, or nothing weighs."""
        super().__init__(tools, options)
        self._guide = (lambda question, count: options.questions[:count]) if options.questions else tools.guide
        if options.guiding and self._guide is None:
            raise InvalidCompression("guiding questions are not given, and there is nothing that makes any")
        if options.guiding and tools.similarity is None:
            raise InvalidCompression("guiding questions need a similarity to weigh them by, and there is none")

    @classmethod
    def sizes(cls, options: PerceptionOptions) -> bool:
        """Where texts are ranked, and fewer than all are believed to be enough."""
        return options.ranked and options.belief < 1

    @property
    def because(self) -> str:
        """Why the budget may not be met exactly."""
        if not self.options.exact:
            return "ratios are clamped and thresholds cut as in the paper"
        if self.sizes(self.options):
            return f"with a belief of {self.options.belief} that is enough, or {super().because}"
        return super().because

    def choose(self, question: str, texts: Sequence[TokenizedText], budget: int) -> list[Unit]:
        """The units that stay, those of the best text first."""
        ranked = self._ranked(question, texts) if self.options.ranked else range(len(texts))
        retained = retain(ranked, [text.size for text in texts], budget)
        units = [unit for index in retained for unit in texts[index].units]
        return thin(self.tools.scorer, question, units, budget, self.options)

    def _ranked(self, question: str, texts: Sequence[TokenizedText]) -> list[int]:
        """Indices of the texts that are needed, best first."""
        if len(texts) < 2:  # nothing to rank
            return list(range(len(texts)))
        questions, weights = self._weighted(question)
        titled, statement = [text.titled for text in texts], self.options.statement
        losses = question_losses(self.tools.scorer, titled, questions, weights, statement=statement)
        total = fsum(map(abs, weights))  # a question of the opposite direction has a weight below 0
        means = [loss / total for loss in losses]
        asked = len(self.tools.scorer.tokens(question)[0])
        return rank(losses)[: enough(means, asked, self.options.belief)]

    def _weighted(self, question: str) -> tuple[list[str], list[float]]:
        """The question, which has weight 1, and guiding questions by their similarity to it (methods 3.2.2)."""
        if not self.options.guiding or self._guide is None or self.tools.similarity is None:
            return [question], [1.0]
        others = self._guide(question, self.options.guiding)
        return [question, *others], [1.0, *self.tools.similarity(question, others)]


def thin(
    scorer: TokenScorer, question: str, units: Sequence[Unit], budget: int, options: PerceptionOptions
) -> list[Unit]:
    """Those of the units, of the best text first, that stay when tokens are taken out until the budget is met."""
    tokens = size_of(units)
    if tokens <= budget:
        return list(units)
    asked = scorer.tokens(question)[0]
    # What is scored stands behind the question and, where that is read again, all that was kept before.
    in_front = len(asked) + (budget if options.iterative else 0)
    segments = packed(units, max(min(options.segment, scorer.window - in_front), 1))
    sizes = [size_of(segment) for segment in segments]
    counts: list[float]
    if options.exact:
        counts = [*keep_counts(sizes, budget, options.k1)]
    else:
        ratios = keep_ratios(len(sizes), base_ratio(tokens, budget), options.k1)
        counts = [size * ratio for size, ratio in zip(sizes, ratios, strict=True)]
    return compress_segments(
        scorer,
        asked,
        segments,
        counts,
        guided_shares(len(sizes), options.tau_o, options.k2),
        iterative=options.iterative,
        reverse=options.reverse,
        exact=options.exact,
    )


def check_segment(segment: int) -> None:
    """Raises InvalidCompression for a size that segments cannot have."""
    if not 1 <= segment <= 65536:
        raise InvalidCompression(f"compression option segment is {segment}; expected 1 to 65536 tokens")
