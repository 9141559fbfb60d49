"""Whether to say that the passages do not hold the answer: a model's probability of saying so, and a threshold.

A model that picks the likeliest word abstains too easily: all its doubt is in one sentence, while what it would
answer is spread over many wordings. Here the whole of the one is weighed against the whole of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log1p
from typing import TYPE_CHECKING

from refdesk.reader.errors import InvalidOption

if TYPE_CHECKING:  # torch takes seconds to import
    import torch


def check_threshold(threshold: float | None) -> None:
    """Raise `InvalidOption` for a threshold that is none."""
    if threshold is not None and not 0 < threshold <= 1:
        raise InvalidOption(
            "abstain", threshold, "more than 0 and at most 1, or nothing for the model's own choice"
        )


@dataclass(frozen=True, slots=True)
class Abstention:
    """`token_ids` are said where the probability of beginning with `opening`, the first of them, is `threshold`
    or more, and at the threshold 1 never; otherwise what is said is as likely as the model has it *given* that it
    does not begin so.

    Raises:
        InvalidOption: a threshold of 0 or less, or more than 1, or an opening that `token_ids` do not begin with.
    """

    token_ids: tuple[int, ...]
    opening: tuple[int, ...]
    threshold: float

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if not self.opening or self.token_ids[: len(self.opening)] != self.opening:
            raise InvalidOption("abstention opening", self.opening, "the first of its token_ids")

    def matters(self, logits: "torch.Tensor", greedy: bool) -> bool:
        """Whether the opening must be read to go on behind `logits` `[vocabulary]`, or its first token is so
        unlikely that it makes no difference."""
        first = self.opening[0]
        if not greedy or int(logits.argmax()) == first:
            return True
        return float(logits.float().softmax(-1)[first]) >= self.threshold

    def decided(self, nll: Sequence[float]) -> bool:
        """Whether it is said, by the negative log-likelihood of each token of the opening (nats)."""
        return self.threshold < 1 and exp(-sum(nll)) >= self.threshold  # 1 is what a sure model comes to

    def withhold(self, logits: "torch.Tensor", said: Sequence[int], nll: Sequence[float]) -> "torch.Tensor":
        """The logits `[vocabulary]` behind what was `said`, without the probability of saying the opening."""
        place = len(said)
        if place >= len(self.opening) or tuple(said) != self.opening[:place]:
            return logits
        rest = sum(nll[place + 1 :])  # of what would follow the token: so much of its probability is the opening's
        logits = logits.float().clone()
        logits[self.opening[place]] += log1p(-exp(-rest)) if rest > 0 else -inf
        return logits
