"""Locret (arXiv 2410.01805): retaining heads say what later answers will want, while a text is being read."""

from dataclasses import dataclass, replace
from typing import ClassVar

from refdesk.memory.policy import EvictionPolicy, check_percent


@dataclass(frozen=True)
class Locret(EvictionPolicy):
    """Keeps what the retaining heads score highest, the same number in every head (section 3.3). `stabilizers`:
    percent of what stays that are the latest tokens, between chunks only, so that what comes next begins where the
    text left off. `local`: last tokens of the prompt, in which the question stands; they are held whole.

    The paper gives both in tokens (2,500 of 6,000 or 16,384, and 100); a share fits budgets of any size and always
    leaves room for others, which a number of tokens may not.

    Raises:
        InvalidMemory: a value out of range.
    """

    name: ClassVar[str] = "locret"
    while_reading: ClassVar[bool] = True
    compact: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    stabilizers: int = 25
    local: int = 32

    def __post_init__(self) -> None:
        check_percent("stabilizers", self.stabilizers, 99)

    def stable(self, room: int) -> int:
        """The stabilizers, section 3.3."""
        return room * self.stabilizers // 100

    def holding(self, tokens: int) -> "Locret":
        """All of the question is local."""
        return replace(self, local=max(self.local, tokens))

    @property
    def while_decoding(self) -> bool:
        """The paper thins the prompt only."""
        return False


@dataclass(frozen=True)
class LocretQ(Locret):
    """Locret with the question in front of the document (the paper's query-aware variant): every token is scored
    by what it is with the question in view."""

    name: ClassVar[str] = "locret_q"
    question_first: ClassVar[bool] = True
