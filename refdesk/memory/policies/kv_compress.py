"""KV-Compress (arXiv 2410.00161): squared attention of the last queries, one budget for all layers and heads,
whole blocks at a time."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.policy import ObservingPolicy, check_window

if TYPE_CHECKING:  # requests name policies, and torch takes seconds to import
    import torch


@dataclass(frozen=True)
class KVCompress(ObservingPolicy):
    """`queries`: how many of the last ones score the prompt (w of the paper's KVC-w, which
    prefers 8; behind a chat template's last words those see little of the question). `power` 2 squares their
    attention, 1 does not (the L1 variant). `pooling`: neighbours whose maximum counts, an odd number.
    `pool_first`: pool each query head, then sum the group, as the authors' code does; else sum, then pool, as
    equation 8 prints it. `protected`: latest tokens that stay. `continual`: compress again while the answer
    grows, its attention added to the scores.

    Raises:
        InvalidMemory: a value out of range.
    """

    name: ClassVar[str] = "kv_compress"
    shared: ClassVar[bool] = True

    queries: int = 32
    pooling: int = 7
    power: int = 2
    pool_first: bool = True
    protected: int = 32
    continual: bool = True

    def __post_init__(self) -> None:
        check_window(self.queries, self.pooling)
        if self.power not in (1, 2):
            raise InvalidMemory(f"memory option power is {self.power}; expected 1 or 2")

    @property
    def window(self) -> int:
        """The metric collection window."""
        return self.queries

    @property
    def recent(self) -> int:
        """The protected window."""
        return self.protected

    def holding(self, tokens: int) -> "KVCompress":
        """The question is protected."""
        return replace(self, protected=max(self.protected, tokens))

    @property
    def while_decoding(self) -> bool:
        """Continual compression, section 4.3."""
        return self.continual

    @property
    def accumulates(self) -> bool:
        """Scores that are used again go on being collected."""
        return self.continual

    def score(self, positions: "torch.Tensor", attention: "torch.Tensor") -> "torch.Tensor":
        """Equations 7 and 8, in float32: squares of small probabilities underflow in half precision."""
        per_head = attention.pow(self.power).sum(1)
        if self.pool_first:
            return self._pooled(per_head).sum(0)
        return self._pooled(per_head.sum(0)[None])[0]

    def _pooled(self, scores: "torch.Tensor") -> "torch.Tensor":
        from torch.nn.functional import max_pool1d

        return max_pool1d(scores, self.pooling, 1, self.pooling // 2)
