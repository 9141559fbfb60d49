"""What is asked of the engine and what comes back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from refdesk.memory.allotment import Layout
from refdesk.memory.options import KEEP_EVERYTHING, MemoryOptions
from refdesk.reader.abstention import Abstention
from refdesk.reader.errors import InvalidOption

if TYPE_CHECKING:  # torch takes seconds to import
    from refdesk.memory.retaining_heads import RetainingHeads
    from refdesk.memory.sequence import Sequence
    from refdesk.memory.unlimiformer import Recall, RecallRequest
    from refdesk.reader.adapter import Adapter

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


def check_sampling(
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    deadline_s: float | None,
) -> None:
    """Raise `InvalidOption` for the first of these that cannot be served."""
    if max_new_tokens < 1:
        raise InvalidOption("max_new_tokens", max_new_tokens, "at least 1")
    if not (isfinite(temperature) and 0 <= temperature <= 5):
        raise InvalidOption("temperature", temperature, "a number from 0 (greedy) to 5")
    if not 0 < top_p <= 1:
        raise InvalidOption("top_p", top_p, "more than 0 and at most 1")
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise InvalidOption("seed", seed, "a whole number of 64 bits")
    if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
        raise InvalidOption("stop", stop, "strings of at least one character each")
    if deadline_s is not None and not (isfinite(deadline_s) and deadline_s > 0):
        raise InvalidOption("deadline_s", deadline_s, "seconds, more than 0")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One continuation to generate.

    The texts of `front` and of `passages` are runs: read once and shared with other requests that have them.
    Those in front are read one behind the other, and shared with whoever begins with the same ones. Every passage
    is read behind them and sees no other passage; `token_ids` are read behind the longest, or `in_line` behind all
    of them one behind the other, and see all of it. `memory`: how much of what is read is held; of a prompt
    without passages that is `token_ids`, for which there is what the front leaves, of one with passages it is
    these; at the rate 1 its policy evicts nothing, but scores what is read. `catalyst` and `heads`: what the
    policy asks for, the retaining heads trained for the model with this very adapter.

    `temperature` 0 is greedy and ignores `top_p` and `seed`; without a `seed` sampling differs from run to
    run. `stop`: the text ends before the first of these strings. `deadline_s`: seconds from submission, time
    in the queue included. `continuations`: token ids whose likelihood behind the prompt is asked for besides;
    they change nothing of what is generated. `adapter`: what is added to the model's weights for this request;
    it reads everything, and its runs are its own. `abstention`: what may be said in place of an answer, and when.

    `recall`: memories of documents that `token_ids` and what is generated attend to besides; they stand behind the
    front. `collect`: gets the sequence when `token_ids` have been read, in the engine's own thread.

    Raises:
        InvalidOption: a value out of range, or no tokens at all.
        InvalidMemory: a budget that the front uses up.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    deadline_s: float | None = None
    continuations: tuple[tuple[int, ...], ...] = ()
    front: tuple[tuple[int, ...], ...] = ()
    passages: tuple[tuple[int, ...], ...] = ()
    memory: MemoryOptions = KEEP_EVERYTHING
    adapter: "Adapter | None" = None
    catalyst: tuple[int, ...] = ()
    heads: "RetainingHeads | None" = None
    in_line: bool = False
    abstention: Abstention | None = None
    recall: "RecallRequest | None" = None
    collect: "Callable[[Sequence], None] | None" = None

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise InvalidOption("token_ids", self.token_ids, "at least one token")
        if not all(self.front):
            raise InvalidOption("front", self.front, "at least one token each")
        if not all(self.passages):
            raise InvalidOption("passages", self.passages, "at least one token each")
        if not all(self.continuations):
            raise InvalidOption("continuations", self.continuations, "at least one token each")
        policy = self.memory.policy
        if policy is None and self.memory.sized:
            raise InvalidOption("memory policy", "auto", "the policy that was chosen")
        if bool(self.catalyst) != (policy is not None and policy.catalyst != "none"):
            raise InvalidOption("catalyst", self.catalyst, "tokens for a policy that reads some behind each chunk")
        if self.recall is not None and policy is not None:
            raise InvalidOption("memory policy", policy.name, "none, where memories of documents are attended to")
        if self.heads is not None and (policy is None or not policy.learned):
            raise InvalidOption("heads", self.heads.fingerprint, "none, but for a policy that is learned")
        self.layout.own.check()
        check_sampling(self.max_new_tokens, self.temperature, self.top_p, self.seed, self.stop, self.deadline_s)

    def all_ids(self) -> Iterator[int]:
        """Every token id in it."""
        said = () if self.abstention is None else self.abstention.token_ids
        return chain(*self.front, *self.passages, self.token_ids, *self.continuations, self.catalyst, said)

    @property
    def prompt_tokens(self) -> int:
        """All that is read; passages that are equal are read once."""
        return sum(map(len, (*self.front, *set(self.passages), self.token_ids)))

    @property
    def scored(self) -> tuple[tuple[int, ...], ...]:
        """Every text whose likelihood behind the prompt may be asked for."""
        return self.continuations + (() if self.abstention is None else (self.abstention.opening,))

    @property
    def room(self) -> int:
        """Positions kept for what comes behind the prompt."""
        return max(self.max_new_tokens, *map(len, self.scored), 0)

    @property
    def layout(self) -> Layout:
        """What is read, in numbers of tokens."""
        passages = set(self.passages)
        return Layout(
            self.memory,
            len(self.token_ids),
            sum(map(len, self.front)),
            tuple(map(len, passages)),
            parts=len(passages),
            catalyst=len(self.catalyst),
            in_line=self.in_line,
            recalled=0 if self.recall is None else self.recall.width,
        )


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The memory of one request, what it shares included, but not what a run held before it was thinned.

    Entries are key/value pairs of one head, summed over layers and KV heads, so a model of 30 layers with 3 KV
    heads holds 90 per token. Bytes are those of the blocks that hold them. `peak`: the most at any time; `held`:
    when the request ended; `freed`: evicted, also while runs were read. The token generated last is never read
    back and has no entries.
    """

    peak_entries: int = 0
    peak_bytes: int = 0
    held_entries: int = 0
    held_bytes: int = 0
    freed_entries: int = 0
    freed_bytes: int = 0


NOTHING_HELD = MemoryUse()


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished continuation and what it cost.

    `token_ids` are the tokens generated, the model's end token included where it came; `text` is what the
    stream handed out, without end token and stop string. `finish_reason`: `stop` (end token or stop string),
    `length` (`max_new_tokens`), `cancelled`, `deadline`. `prompt_tokens` counts what was asked, also where the
    request ended before all of it was read.

    `memory` is what was held; of the runs asked for `run_hits` were in memory already or on their way there,
    `run_loads` were taken from where they are kept, and `run_misses` were read.

    `continuation_nll`: for each continuation asked for, in order, the negative log-likelihood of each of its
    tokens (nats), given the prompt as it was held in memory and the tokens before it; `score_s` is what that took,
    which is in no other time. Empty where the generation ended before all of them were read.

    `held`: of each token of each of the `passages` asked for, or of `token_ids` where there are none, the share of
    layers and KV heads that held its entry when all had been read. Empty where no policy was asked for.

    `recall`: what was attended to of memories of documents; None where there were none.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    memory: MemoryUse
    run_hits: int = 0
    run_loads: int = 0
    run_misses: int = 0
    continuation_nll: tuple[tuple[float, ...], ...] = ()
    score_s: float = 0.0
    held: tuple[NDArray[np.float32], ...] = ()
    recall: "Recall | None" = None
