"""SnapKV (arXiv 2404.14469): what the last queries of the prompt look at, the same number in every head."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from refdesk.memory.policy import MOST_OBSERVED, ObservingPolicy, check_window

if TYPE_CHECKING:  # requests name policies, and torch takes seconds to import
    import torch


@dataclass(frozen=True)
class SnapKV(ObservingPolicy):
    """Attention of the last `queries`, averaged over them and the group, smoothed over `pooling` neighbours, an
    odd number. Evicts once, when the whole prompt has been read; the question at its end is what it sees.

    The paper scores repeated KV heads, one for each query head; here the group shares one score (its mean),
    because the store holds KV heads once.

    Raises:
        InvalidMemory: a value out of range.
    """

    name: ClassVar[str] = "snapkv"

    queries: int = 32
    pooling: int = 7

    def __post_init__(self) -> None:
        check_window(self.queries, self.pooling)

    @property
    def window(self) -> int:
        """The observation window, section 4.1."""
        return self.queries

    @property
    def recent(self) -> int:
        """The window itself is always kept."""
        return self.queries

    def holding(self, tokens: int) -> "SnapKV":
        """The window has room for the question, or as much of it as can be observed."""
        return replace(self, queries=max(self.queries, min(tokens, MOST_OBSERVED)))

    @property
    def while_decoding(self) -> bool:
        """The paper compresses the prompt only."""
        return False

    def score(self, positions: "torch.Tensor", attention: "torch.Tensor") -> "torch.Tensor":
        """Listing 1 of the paper, for one KV head."""
        from torch.nn.functional import avg_pool1d

        seen = attention.mean((0, 1))[None]
        return avg_pool1d(seen, self.pooling, 1, self.pooling // 2)[0]
