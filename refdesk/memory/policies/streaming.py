"""StreamingLLM (arXiv 2309.17453): the first few tokens and the latest ones. The example to copy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from refdesk.memory.policy import Entries, EvictionPolicy

if TYPE_CHECKING:  # requests name policies, and torch takes seconds to import
    import torch


@dataclass(frozen=True)
class Streaming(EvictionPolicy):
    """Keeps `first` tokens, without which attention has nowhere to rest, and the newest of the others. Positions
    stay the original ones, so that it can be compared with the rest."""

    name: ClassVar[str] = "streaming"
    while_reading: ClassVar[bool] = True

    first: int = 4

    @property
    def sinks(self) -> int:
        """The tokens where attention rests."""
        return self.first

    def rank(self, entries: Entries, room: int) -> "torch.Tensor":
        """The later, the better."""
        return entries.positions.float()
