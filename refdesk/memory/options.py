"""The memory options of a request: which policy, and how much it may keep."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from typing import Any

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.policies import POLICIES
from refdesk.memory.policy import EvictionPolicy

_DEFAULT_POLICY = "kv_compress"
_LEAST_BY_RATE = 128
_STEP_BY_RATE = 16


@dataclass(frozen=True)
class MemoryOptions:
    """`policy` None keeps everything. Else either `budget`, in tokens, or `rate`, by which the tokens read are
    divided, says what may be held."""

    policy: EvictionPolicy | None = None
    budget: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.policy is None:
            if self.budget is not None or self.rate is not None:
                raise InvalidMemory("memory has a budget or a rate, but policy none keeps everything")
            return
        if (self.budget is None) == (self.rate is None):
            raise InvalidMemory(f"memory policy {self.policy.name} needs a budget or a rate, and not both")
        least = max(self.policy.sinks + self.policy.recent, 1)
        if self.budget is not None and not least <= self.budget <= 100_000_000:
            raise InvalidMemory(
                f"memory budget is {self.budget}; expected at least {least} tokens, which {self.policy.name} keeps"
                " in any case, and at most 100,000,000"
            )
        if self.rate is not None and not 1 <= self.rate <= 1024:
            raise InvalidMemory(f"memory rate is {self.rate}; expected 1 to 1024")

    def budget_for(self, tokens: int, parts: int = 1) -> int:
        """How many of `tokens` may be held, in tokens over all layers and heads.

        A rate gives whole blocks and at least 128 tokens (arXiv 2410.00161, its code); 1 keeps everything.
        `parts`: so many stretches of a prompt are read apart, these tokens are one of them, and the budget is for
        all.
        """
        if self.policy is None or self.rate == 1:
            return tokens
        least = max(self.policy.sinks + self.policy.recent, 1)
        if self.rate is None:
            assert self.budget is not None
            return max(self.budget // parts, least)
        least = max(least, _LEAST_BY_RATE // parts, _STEP_BY_RATE)
        return max(least, (int(tokens / self.rate) - 1) // _STEP_BY_RATE * _STEP_BY_RATE)

    def peak_blocks(self, slots: int, block_size: int, tokens: int, new: int, chunk: int) -> tuple[int, int]:
        """The most blocks that `tokens` read in chunks and `new` generated may take, over `slots` rows: while
        reading, and afterwards."""
        everything = slots * ceil((tokens + new) / block_size)
        if self.policy is None:
            return everything, everything
        budget = self.budget_for(tokens)
        held = min(tokens, budget + chunk) if self.policy.while_reading else tokens
        reading = slots * (ceil(held / block_size) + self.policy.while_reading)
        if self.policy.while_decoding:
            after = slots * (ceil(self.budget_for(tokens + new) / block_size) + 1)
        else:
            after = slots * (ceil(budget / block_size) + ceil(new / block_size))
        return min(reading, everything), min(after, everything)


KEEP_EVERYTHING = MemoryOptions()


def memory_options(asked: Mapping[str, Any] | None) -> MemoryOptions:
    """What a request asks for: `{"policy": "kv_compress", "budget": 512}`, `{"rate": 8}`, or nothing.

    Options of the policy stand beside them. A budget or a rate without a policy means KV-Compress.

    Raises:
        InvalidMemory: an unknown policy or option, or a value out of range.
    """
    rest = dict(asked or {})
    name = rest.pop("policy", _DEFAULT_POLICY if rest else "none")
    budget, rate = rest.pop("budget", None), rest.pop("rate", None)
    if budget is not None and not _is_whole(budget):
        raise InvalidMemory(f"memory budget is {budget!r}; expected a whole number of tokens")
    if rate is not None and not (_is_whole(rate) or isinstance(rate, float)):
        raise InvalidMemory(f"memory rate is {rate!r}; expected a number")
    if name == "none":
        if rest:
            raise InvalidMemory(f"memory has {', '.join(sorted(rest))}, but policy none has no options")
        return MemoryOptions(None, budget, rate)
    if not isinstance(name, str) or name not in POLICIES:
        raise InvalidMemory(f"memory policy is {name!r}; expected one of {', '.join(['none', *POLICIES])}")
    return MemoryOptions(_policy(POLICIES[name], rest), budget, rate)


def _policy(kind: type[EvictionPolicy], options: Mapping[str, Any]) -> EvictionPolicy:
    known: dict[str, Any] = {field.name: type(field.default) for field in fields(kind)}
    value: Any
    for option, value in options.items():
        if option not in known:
            raise InvalidMemory(
                f"memory option {option!r} is unknown to {kind.name}; known: {', '.join(known) or 'none'}"
            )
        if type(value) is not known[option]:
            expected = "true or false" if known[option] is bool else "a whole number"
            raise InvalidMemory(f"memory option {option} is {value!r}; expected {expected}")
        if not 0 <= value <= 65536:
            raise InvalidMemory(f"memory option {option} is {value}; expected 0 to 65536")
    return kind(**options)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
