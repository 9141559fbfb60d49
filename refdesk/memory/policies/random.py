"""Eviction by lot: what every other policy must beat."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from refdesk.memory.policy import Entries, EvictionPolicy

if TYPE_CHECKING:  # requests name policies, and torch takes seconds to import
    import torch


@dataclass(frozen=True)
class Random(EvictionPolicy):
    """Keeps entries drawn by `seed`, others in every layer and head, once the whole prompt has been read, and the
    latest tokens."""

    name: ClassVar[str] = "random"

    seed: int = 0
    keep_recent: int = 32

    @property
    def recent(self) -> int:
        """Latest tokens, in which the question stands: as many as the rivals keep."""
        return self.keep_recent

    def holding(self, tokens: int) -> "Random":
        """The question is among the latest."""
        return replace(self, keep_recent=max(self.keep_recent, tokens))

    @property
    def while_decoding(self) -> bool:
        """Drawn once."""
        return False

    def rank(self, entries: Entries, room: int) -> "torch.Tensor":
        """Drawn anew at every eviction, the same for the same seed."""
        import torch

        drawn = torch.rand(entries.positions.shape, generator=torch.Generator().manual_seed(self.seed))
        return drawn.to(entries.positions.device)
