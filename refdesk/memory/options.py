"""The memory options of a request: which policy, and how much it may keep."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.policies import POLICIES
from refdesk.memory.policy import EvictionPolicy
from refdesk.named_options import fits, made

MOST_ENTRIES = 2**16
"""Far ones of a document that a row attends to in each layer and KV head, at most."""

Places = Literal["clipped", "scaled", "true"]

_DEFAULT_POLICY = "kv_compress"
_LEAST_BY_RATE = 128
_STEP_BY_RATE = 16


@dataclass(frozen=True)
class Looking:
    """How words look in whole documents: see `entries` and `places` of `memory.unlimiformer.RecallRequest`."""

    entries: int = 64
    places: Places = "clipped"


@dataclass(frozen=True)
class MemoryOptions:
    """How much of what is read may be held: either `budget`, in tokens, or `rate`, by which the tokens read are
    divided.

    `policy` None with `auto`: if what is to be read does not fit, a policy is chosen for it
    (`refdesk.memory.choice`). Without: everything is held, whatever it takes.
    """

    policy: EvictionPolicy | None = None
    budget: int | None = None
    rate: float | None = None
    auto: bool = False

    def __post_init__(self) -> None:
        if self.policy is None and not self.auto:
            if self.sized:
                raise InvalidMemory("memory has a budget or a rate, but policy none keeps everything")
            return
        name = "auto" if self.policy is None else self.policy.name
        if (self.budget is None) == (self.rate is None) and (self.sized or not self.auto):
            raise InvalidMemory(f"memory policy {name} needs a budget or a rate, and not both")
        least = self.least
        if self.budget is not None and not least <= self.budget <= 100_000_000:
            raise InvalidMemory(
                f"memory budget is {self.budget}; expected at least {least} tokens, which {name} keeps in any"
                " case, and at most 100,000,000"
            )
        if self.rate is not None and not 1 <= self.rate <= 1024:
            raise InvalidMemory(f"memory rate is {self.rate}; expected 1 to 1024")

    @property
    def sized(self) -> bool:
        """Whether it says how much may be held."""
        return self.budget is not None or self.rate is not None

    @property
    def least(self) -> int:
        """Tokens that are kept in any case."""
        return max(self.policy.sinks + self.policy.recent, 1) if self.policy is not None else 1

    def holding(self, tokens: int) -> "MemoryOptions":
        """The same for a prompt that ends with a question of so many tokens, which is held whole. Raises
        InvalidMemory for a budget that the question uses up."""
        return self if self.policy is None else replace(self, policy=self.policy.holding(tokens))

    def budget_for(self, tokens: int, parts: int = 1, whole: int = 0) -> int:
        """How many of `tokens` may be held, in tokens over all layers and heads; all, if nothing says otherwise.

        A rate gives whole blocks and at least 128 tokens (arXiv 2410.00161, its code); 1 keeps everything.
        `parts`: so many texts share the budget, and these are the tokens of one. `whole`: so many of them are held
        in any case, and some besides.
        """
        if not self.sized or self.rate == 1:
            return tokens
        if self.rate is None:
            assert self.budget is not None
            return max(self.budget // parts, whole + self.least)
        least = max(whole + max(self.least, _STEP_BY_RATE), _LEAST_BY_RATE // parts)
        return max(least, (int(tokens / self.rate) - 1) // _STEP_BY_RATE * _STEP_BY_RATE)


KEEP_EVERYTHING = MemoryOptions()
AS_NEEDED = MemoryOptions(auto=True)


def memory_options(asked: Mapping[str, Any] | None) -> MemoryOptions:
    """What a request asks for: `{"policy": "kv_compress", "budget": 512}`, `{"rate": 8}`, or nothing, which is
    `{"policy": "auto"}`.

    Options of the policy stand beside them. A budget or a rate without a policy means KV-Compress.

    Raises:
        InvalidMemory: an unknown policy or option, or a value out of range.
    """
    rest = dict(asked or {})
    name = rest.pop("policy", _DEFAULT_POLICY if rest else "auto")
    budget, rate = rest.pop("budget", None), rest.pop("rate", None)
    if budget is not None and not fits(budget, int):
        raise InvalidMemory(f"memory budget is {budget!r}; expected a whole number of tokens")
    if rate is not None and not fits(rate, float):
        raise InvalidMemory(f"memory rate is {rate!r}; expected a number")
    if name in ("none", "auto"):
        if rest:
            raise InvalidMemory(f"memory has {', '.join(sorted(rest))}, but policy {name} has no options")
        return MemoryOptions(None, budget, rate, auto=name == "auto")
    if not isinstance(name, str) or name not in POLICIES:
        raise InvalidMemory(f"memory policy is {name!r}; expected one of {', '.join(['none', 'auto', *POLICIES])}")
    return MemoryOptions(_policy(POLICIES[name], rest), budget, rate)


def _policy(kind: type[EvictionPolicy], options: Mapping[str, Any]) -> EvictionPolicy:
    policy = made(kind, options, "memory", kind.name, InvalidMemory)
    for option, value in options.items():
        if not 0 <= value <= 65536:
            raise InvalidMemory(f"memory option {option} is {value}; expected 0 to 65536")
    return policy
