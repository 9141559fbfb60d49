"""The compression options of a request: which strategy, and how many tokens of the passages stay."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from refdesk.compressor.compressor import Compressor, Tools
from refdesk.compressor.errors import InvalidCompression
from refdesk.compressor.perception import PerceptionOptions
from refdesk.compressor.strategies import STRATEGIES
from refdesk.named_options import fits, made

_DEFAULT_STRATEGY = "perception"
_NO_LESS = PerceptionOptions(belief=1)  # of `auto`: nothing goes that need not


@dataclass(frozen=True)
class CompressionOptions:
    """How much of the passages stays: either `budget`, in tokens, or `rate`, by which their tokens are divided, or
    what a strategy thinks enough.

    `strategy` None: nothing is taken out, but with `auto` by the default strategy where the budget or the window
    asks for it. `settings`: the strategy's options, of its `option_type`.

    Raises:
        InvalidCompression: a value out of range, or what does not go together.
    """

    strategy: str | None = None
    settings: Any = None
    budget: int | None = None
    rate: float | None = None
    auto: bool = False

    def __post_init__(self) -> None:
        if self.strategy is None and not self.auto:
            if self.sized:
                raise InvalidCompression("compression has a budget or a rate, but strategy none takes nothing out")
            return
        name = self.strategy or "auto"
        if self.budget is not None and self.rate is not None:
            raise InvalidCompression(f"compression strategy {name} has a budget and a rate; expected one of them")
        if not self.sized and not self.auto and not STRATEGIES[self.name].sizes(self._strategy_options):
            raise InvalidCompression(f"compression strategy {name} needs a budget or a rate")
        if self.budget is not None and not 1 <= self.budget <= 100_000_000:
            raise InvalidCompression(
                f"compression budget is {self.budget}; expected at least 1 token, and at most 100,000,000"
            )
        if self.rate is not None and not 1 <= self.rate <= 1024:
            raise InvalidCompression(f"compression rate is {self.rate}; expected 1 to 1024")

    @property
    def name(self) -> str:
        """Of the strategy that is put to work."""
        return self.strategy or (_DEFAULT_STRATEGY if self.auto else "none")

    @property
    def asks(self) -> bool:
        """Whether what stays depends on the question."""
        return self.name != "none" and STRATEGIES[self.name].asks

    @property
    def sized(self) -> bool:
        """Whether it says how much stays."""
        return self.budget is not None or self.rate is not None

    def guided_by(self, questions: tuple[str, ...]) -> "CompressionOptions":
        """The same with these guiding questions, where it asks for any and they are given."""
        if not questions or not isinstance(self.settings, PerceptionOptions) or not self.settings.guiding:
            return self
        return replace(self, settings=replace(self.settings, questions=questions))

    def budget_for(self, tokens: int) -> int:
        """How many of `tokens` stay; all, if nothing says otherwise, and at least one."""
        if self.rate is not None:
            return max(int(tokens / self.rate), 1)
        return tokens if self.budget is None else self.budget

    def compressor(self, tools: Tools) -> Compressor[Any]:
        """What takes them out; raises InvalidCompression where a tool is missing."""
        return STRATEGIES[self.name](tools, self._strategy_options)

    @property
    def _strategy_options(self) -> Any:
        if self.settings is not None:
            return self.settings
        return _NO_LESS if self.auto else STRATEGIES[self.name].option_type()


KEEP_EVERYTHING = CompressionOptions()


def compression_options(asked: Mapping[str, Any] | None) -> CompressionOptions:
    """What a request asks for: `{"strategy": "perception", "budget": 600}`, `{"rate": 4}`, or nothing, which is
    `{"strategy": "none"}`.

    Options of the strategy stand beside them. A budget or a rate without a strategy means Perception Compressor.

    Raises:
        InvalidCompression: an unknown strategy or option, or a value out of range.
    """
    rest = dict(asked or {})
    name = rest.pop("strategy", _DEFAULT_STRATEGY if rest else "none")
    budget, rate = rest.pop("budget", None), rest.pop("rate", None)
    if budget is not None and not fits(budget, int):
        raise InvalidCompression(f"compression budget is {budget!r}; expected a whole number of tokens")
    if rate is not None and not fits(rate, float):
        raise InvalidCompression(f"compression rate is {rate!r}; expected a number")
    if name in ("none", "auto"):
        if rest:
            raise InvalidCompression(
                f"compression has {', '.join(sorted(rest))}, but strategy {name} has no options"
            )
        return CompressionOptions(budget=budget, rate=rate, auto=name == "auto")
    if not isinstance(name, str) or name not in STRATEGIES:
        known = ", ".join(["none", "auto", *STRATEGIES])
        raise InvalidCompression(f"compression strategy is {name!r}; expected one of {known}")
    settings: Any = made(STRATEGIES[name].option_type, rest, "compression", name, InvalidCompression)
    return CompressionOptions(name, settings, budget, rate)
