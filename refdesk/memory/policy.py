"""What a policy of eviction is: scores for entries, and a few facts about how they are to be used."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from refdesk.memory.errors import InvalidMemory

if TYPE_CHECKING:  # requests name policies, and torch takes seconds to import
    import torch


@dataclass(frozen=True)
class EvictionPolicy(ABC):
    """Scores the entries of one layer and KV head; whoever has the lowest goes (`refdesk.memory.eviction`).

    `recent`: so many of the latest tokens are kept, and `sinks` of the first, whatever their scores; the cache
    sees to it. The fields of a subclass are its options.

    Facts, of the class: `name`, for requests. `shared`: the budget is one for all layers and heads, and whole
    blocks are evicted; else every head keeps the same number of entries. `while_reading`: evict also between the
    chunks of a prompt, so that what is held never exceeds budget and chunk.
    """

    name: ClassVar[str]
    shared: ClassVar[bool] = False
    while_reading: ClassVar[bool] = False

    @property
    def window(self) -> int:
        """How many of the last queries `score` must see the attention of; 0 for a policy that needs none."""
        return 0

    @property
    def sinks(self) -> int:
        """First tokens that are kept in any case."""
        return 0

    @property
    def recent(self) -> int:
        """Latest tokens that are kept in any case."""
        return 0

    @property
    def while_decoding(self) -> bool:
        """Whether to evict again as an answer grows; else only what was read is thinned."""
        return True

    @property
    def accumulates(self) -> bool:
        """Whether each generated token's squared attention is added to the scores."""
        return False

    @abstractmethod
    def score(self, positions: "torch.Tensor", attention: "torch.Tensor | None") -> "torch.Tensor":
        """How much each entry is worth, float32, the shape of `positions`.

        With a window: the entries of one layer and KV head, `positions` `[n]` in ascending order, `attention`
        `[group, window, n]` the probabilities of the last queries of the head's group, float32; asked once, when
        the entries have been read. Without: `positions` `[layers, kv_heads, n]` in any order and no `attention`;
        asked at each eviction.
        """


def check_window(queries: int, pooling: int) -> None:
    """Raise InvalidMemory unless these can be used: at least one query, an odd number of neighbours."""
    if queries < 1:
        raise InvalidMemory(f"memory option queries is {queries}; expected at least 1")
    if pooling % 2 == 0:
        raise InvalidMemory(f"memory option pooling is {pooling}; expected an odd number")
