"""InfiniPot (arXiv 2410.01518): what a catalyst looks at, and what the model did not expect. Needs no training."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from refdesk.memory.policy import Catalyst, Entries, ObservingPolicy, check_percent

if TYPE_CHECKING:  # requests name policies, and torch takes seconds to import
    import torch


@dataclass(frozen=True)
class InfiniPot(ObservingPolicy):
    """Of what stays, `novelty` percent are the tokens that the model expected least (NuC, the same in all heads),
    the rest what a catalyst looks at, a request to sum up (CaP, each head for itself). `local`: last tokens of the
    prompt, in which the question stands; they are held whole.

    The paper lets a pot run full and halves it. Here every chunk is followed by an eviction down to the budget, so
    that no more than budget, chunk and catalyst are ever held: the bound that its rivals keep. Novelty is that of
    the first reading, carried with the entry; the first token of a text is infinitely new.

    Raises:
        InvalidMemory: a value out of range.
    """

    name: ClassVar[str] = "infinipot"
    while_reading: ClassVar[bool] = True
    compact: ClassVar[bool] = True
    catalyst: ClassVar[Catalyst] = "generic"

    novelty: int = 50
    local: int = 32

    def __post_init__(self) -> None:
        check_percent("novelty", self.novelty)

    def holding(self, tokens: int) -> "InfiniPot":
        """All of the question is local."""
        return replace(self, local=max(self.local, tokens))

    @property
    def while_decoding(self) -> bool:
        """Only what is read is distilled."""
        return False

    @property
    def novel(self) -> bool:
        """Unless attention alone decides."""
        return self.novelty > 0

    def score(self, positions: "torch.Tensor", attention: "torch.Tensor") -> "torch.Tensor":
        """CaP: the catalyst's attention, its mean over the catalyst, summed over the query heads."""
        return attention.mean(1).sum(0)

    def rank(self, entries: Entries, room: int) -> "torch.Tensor":
        """The newest in any case, the rest by attention.

        Each head ranks what it holds. That gives all heads the same tokens, though they hold others besides: what
        is among the newest of all has been so at every eviction before, and every head has kept it.
        """
        newest = entries.novelty.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return entries.scores.masked_fill(newest < room * self.novelty // 100, float("inf"))


@dataclass(frozen=True)
class InfiniPotQ(InfiniPot):
    """InfiniPot whose catalyst is the question (the paper's CaP-Q)."""

    name: ClassVar[str] = "infinipot_q"
    catalyst: ClassVar[Catalyst] = "question"
