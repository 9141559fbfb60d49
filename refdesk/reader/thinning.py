"""What says which entries of a document a thinned memory holds.

A policy of eviction does, at the rate 1: it scores all that is read and evicts nothing. Of each chunk every head
holds what it ranks highest.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions
from refdesk.memory.policies.infinipot import InfiniPot
from refdesk.memory.policies.locret import Locret
from refdesk.reader.errors import InvalidOption
from refdesk.reader.prompt import encode_catalyst

if TYPE_CHECKING:  # torch takes seconds to import, and not every command needs it
    import torch

    from refdesk.memory.policy import Entries
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.reader.adapter import Adapter
    from refdesk.reader.model import ReaderModel

Keep = Literal["auto", "locret", "infinipot"]

# No token is local: what is near is held whole by another rule, and all others are to be scored.
_LOCRET = MemoryOptions(Locret(local=0), rate=1)
_INFINIPOT = MemoryOptions(InfiniPot(local=0), rate=1)


@dataclass(frozen=True)
class Thinning:
    """`keep`: what was chosen, `auto` where everything is held. `memory`, `catalyst` and `heads`: of the requests
    that read the document; see `GenerationRequest`."""

    keep: Keep = "auto"
    memory: MemoryOptions = KEEP_EVERYTHING
    catalyst: tuple[int, ...] = ()
    heads: "RetainingHeads | None" = None

    @property
    def identity(self) -> str:
        """Equal where the same is chosen."""
        return f"{self.memory} {self.catalyst} {'' if self.heads is None else self.heads.fingerprint}"

    def worth(self, entries: "Entries", room: int) -> "torch.Tensor | None":
        """What entries are worth where `room` of each row are held, `[layers, kv_heads, n]`, higher is held; None
        where all are."""
        return None if self.memory.policy is None else self.memory.policy.rank(entries, room)


def check_keep(keep: str, rate: float) -> None:
    """Raise InvalidOption for a choice that is none, or that has no effect, for all is held."""
    if keep not in get_args(Keep):
        raise InvalidOption("keep", keep, f"one of {', '.join(get_args(Keep))}")
    if keep != "auto" and rate == 1:
        raise InvalidOption("keep", keep, "auto, for at the rate 1 everything is held")


def thinning_of(
    keep: Keep, rate: float, model: "ReaderModel", adapter: "Adapter | None", heads: "RetainingHeads | None"
) -> Thinning:
    """By what entries are chosen, one of so many; `auto`: by retaining heads if there are any, else by InfiniPot.

    Raises:
        InvalidOption: `locret` without heads.
    """
    if rate == 1:
        return Thinning()
    if keep == "infinipot" or (keep == "auto" and heads is None):
        return Thinning("infinipot", _INFINIPOT, catalyst=encode_catalyst(model))
    if heads is None:
        name = "no adapter" if adapter is None else f"adapter {adapter.name!r}"
        expected = f"infinipot or auto, for there are no retaining heads for {model.name} with {name}"
        raise InvalidOption("keep", keep, expected)
    return Thinning("locret", _LOCRET, heads=heads)
