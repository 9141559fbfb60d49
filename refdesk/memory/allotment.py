"""How much of what is read may be held, and the most that it comes to: what admission and the window rest on."""

from dataclasses import dataclass
from math import ceil

from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions


@dataclass(frozen=True)
class Allotment:
    """What `memory` allots to a text of `tokens` that is read in chunks. Everything is counted in entries of one
    layer and KV head, those in front left out; with a budget that is shared by all, in the mean over them.

    `front`: tokens in front of it that others hold and that count. `local`: so many of its last are never evicted.
    `parts`: it is one of so many texts that share a budget. `catalyst`: tokens read behind each chunk, and
    forgotten.
    """

    memory: MemoryOptions
    tokens: int
    front: int = 0
    local: int = 0
    parts: int = 1
    catalyst: int = 0

    def check(self) -> None:
        """Raise InvalidMemory where a budget does not even hold what is held in any case."""
        policy, budget = self.memory.policy, self.memory.budget
        least = self.front + self.local + self.memory.least
        if policy is not None and budget is not None and budget < least:
            raise InvalidMemory(
                f"memory budget is {budget}; expected at least {least}: {self.front} tokens stand in front, and"
                f" {policy.name} keeps {least - self.front} in any case"
            )

    def room(self, generated: int = 0) -> int:
        """Entries that an eviction leaves, without the local ones, when `generated` more tokens have come."""
        whole = self.front + self.local
        return self.memory.budget_for(self.front + self.tokens + generated, self.parts, whole) - whole

    def held(self, chunk: int) -> tuple[int, int]:
        """The most entries: while it is read in chunks of `chunk`, and when it has been read."""
        policy = self.memory.policy
        if policy is None:
            return self.tokens, self.tokens
        after = min(self.tokens, self.room() + self.local)
        most = min(self.tokens, after + max(chunk, policy.window)) if policy.while_reading else self.tokens
        return most + self.catalyst, after

    def positions(self, chunk: int) -> tuple[int, int]:
        """The most positions that it takes: while it is read, and when it has been read."""
        if self.memory.policy is None or not self.memory.policy.compact:
            return self.tokens + self.catalyst, self.tokens
        return self.held(chunk)

    def blocks(self, slots: int, block_size: int, new: int, chunk: int) -> tuple[int, int]:
        """The most blocks that it and `new` generated tokens take over `slots` rows: while it is read, and
        afterwards."""
        policy = self.memory.policy
        everything = slots * ceil((self.tokens + new) / block_size)
        if policy is None:
            return everything, everything
        most, held = self.held(chunk)
        whole = ceil((self.tokens + self.catalyst) / block_size)
        reading = min(ceil(most / block_size) + policy.while_reading, whole)
        if policy.while_decoding:
            after = ceil((self.room(new) + self.local) / block_size) + 1
        else:
            after = ceil(held / block_size) + ceil(new / block_size)
        return slots * reading, min(slots * after, everything)


@dataclass(frozen=True)
class Layout:
    """What a request reads, in tokens: a `prefix`, `passages` behind it that do not see each other, and `tokens`
    behind all of that. `memory` is for the passages, or where there are none for the tokens. `parts`: the passages
    are of so many that share its budget. `catalyst` as in Allotment. `in_line`: for what is behind, the passages
    stand one behind the other, and not all of them right behind the prefix. `recalled`: positions that memories of
    documents take behind the passages."""

    memory: MemoryOptions
    tokens: int
    prefix: int = 0
    passages: tuple[int, ...] = ()
    parts: int = 1
    catalyst: int = 0
    in_line: bool = False
    recalled: int = 0

    @property
    def own(self) -> Allotment:
        """Of the tokens behind. The prefix counts, for it is held for them alone as much as for others."""
        policy = None if self.passages else self.memory.policy
        if policy is None:
            return Allotment(KEEP_EVERYTHING, self.tokens)
        return Allotment(self.memory, self.tokens, self.prefix, policy.local, catalyst=self.catalyst)

    def end(self, chunk: int, new: int) -> int:
        """The first position behind all that is read in chunks of `chunk`, and `new` tokens behind that."""
        passages = [
            Allotment(self.memory, tokens, parts=self.parts, catalyst=self.catalyst).positions(chunk)
            for tokens in self.passages
        ]
        reading, held = self.own.positions(chunk)
        kept = [kept for _, kept in passages]
        behind = (sum(kept) if self.in_line else max(kept, default=0)) + self.recalled + max(reading, held + new)
        return self.prefix + max(behind, *(most for most, _ in passages), 0)
