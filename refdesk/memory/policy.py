"""What a policy of eviction is: what entries are worth, and a few facts about how they are to be used."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from refdesk.memory.errors import InvalidMemory

if TYPE_CHECKING:  # requests name policies, and torch takes seconds to import
    import torch

Catalyst = Literal["none", "generic", "question"]

MOST_OBSERVED = 512
"""Queries that are observed at once, at most: they are read in one forward, and what they look at takes a float32
for each of them, query head of a group and entry held, which no ceiling of memory counts."""


@dataclass(frozen=True)
class Entries:
    """What is known of the entries that may be evicted, each row in the order of the text, all `[layers, kv_heads,
    n]`: `positions`, `scores` (what they were given when they were written or observed) and `novelty`. Where a row
    has fewer than n, the places behind them have the score and the novelty minus infinity."""

    positions: "torch.Tensor"
    scores: "torch.Tensor"
    novelty: "torch.Tensor"


@dataclass(frozen=True)
class EvictionPolicy:
    """Says what entries are worth; in each layer and KV head the lowest go (`refdesk.memory.eviction`). The fields
    of a subclass are its options.

    An entry's score is 0 when it is written, unless retaining heads give it one; an `ObservingPolicy` gives it
    another. At each eviction `rank` makes of it what decides. `sinks`, `recent`, `stable` and `local`
    stay whatever that says; the cache sees to it.

    Facts, of the class:

    - `name`, for requests.
    - `shared`: the budget is one for all layers and heads, and whole blocks are evicted; else every head keeps the
      same number of entries.
    - `while_reading`: evict also between the chunks of a prompt, so that what is held never exceeds budget and
      chunk.
    - `compact`: what stays moves together: its positions are made contiguous, so that none ever exceeds what is
      held, however long the text is. Not with a `shared` budget: the next token has one position in all heads.
    - `learned`: retaining heads (`refdesk.memory.retaining_heads`) score each entry when it is written.
    - `question_first`: the question stands also in front of what is read, and is held whole.
    - `catalyst`: what is read behind each chunk, observed, and forgotten: a generic request, the question, or
      nothing.
    """

    name: ClassVar[str]
    shared: ClassVar[bool] = False
    while_reading: ClassVar[bool] = False
    compact: ClassVar[bool] = False
    learned: ClassVar[bool] = False
    question_first: ClassVar[bool] = False
    catalyst: ClassVar[Catalyst] = "none"

    @property
    def window(self) -> int:
        """How many of the last queries are observed; 0 for a policy that needs none, or those of a catalyst."""
        return 0

    @property
    def sinks(self) -> int:
        """First tokens that are kept in any case."""
        return 0

    @property
    def recent(self) -> int:
        """Latest tokens that the last eviction of what is read, and those behind it, keep in any case."""
        return 0

    @property
    def asks(self) -> bool:
        """Whether the question is shown to it, wherever what it thins stands."""
        return self.question_first or self.catalyst == "question"

    @property
    def sees_question(self) -> bool:
        """Whether what stays depends on a question that ends the text that it thins."""
        return self.asks or self.window > 0

    def stable(self, room: int) -> int:
        """Latest tokens that evictions between chunks keep in any case, of the `room` entries that stay."""
        return self.recent

    @property
    def local(self) -> int:
        """Last tokens of a prompt, which are read behind its last eviction."""
        return 0

    def holding(self, tokens: int) -> "EvictionPolicy":
        """The same, but that it keeps at least so many last tokens of a prompt: the question is never evicted. One
        that keeps the latest anyway is what it is."""
        return self

    @property
    def while_decoding(self) -> bool:
        """Whether to evict again as an answer grows; else only what was read is thinned."""
        return True

    @property
    def accumulates(self) -> bool:
        """Whether each generated token's squared attention is added to the scores."""
        return False

    @property
    def novel(self) -> bool:
        """Whether `rank` needs the novelty of entries: how little the model expected each token (nats)."""
        return False

    def rank(self, entries: Entries, room: int) -> "torch.Tensor":
        """What decides at an eviction that leaves `room` entries of each row, float32, higher is kept; infinity is
        kept in any case. Their scores, if a policy does not say otherwise."""
        return entries.scores


@dataclass(frozen=True)
class ObservingPolicy(EvictionPolicy, ABC):
    """A policy that scores entries by the attention they get: from a `window` of the last queries when all has
    been read, or from a `catalyst` behind each chunk."""

    @abstractmethod
    def score(self, positions: "torch.Tensor", attention: "torch.Tensor") -> "torch.Tensor":
        """What the entries of one layer and KV head are worth to those who look at them, `[n]` in float32:
        `positions` `[n]` in ascending order, `attention` `[group, window, n]` the probabilities of the queries of
        the head's group, float32."""


def check_window(queries: int, pooling: int) -> None:
    """Raise InvalidMemory unless these can be used: some queries, an odd number of neighbours."""
    if not 1 <= queries <= MOST_OBSERVED:
        raise InvalidMemory(f"memory option queries is {queries}; expected 1 to {MOST_OBSERVED}")
    if not 1 <= pooling < MOST_OBSERVED or pooling % 2 == 0:
        raise InvalidMemory(
            f"memory option pooling is {pooling}; expected an odd number, {MOST_OBSERVED - 1} at most"
        )


def check_percent(option: str, value: int, most: int = 100) -> None:
    """Raise InvalidMemory unless `value` is a share of so many percent at most."""
    if not 0 <= value <= most:
        raise InvalidMemory(f"memory option {option} is {value}; expected 0 to {most} percent")
