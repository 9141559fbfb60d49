"""What is asked of the engine and what comes back."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from refdesk.reader.errors import InvalidOption

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


def check_sampling(
    max_new_tokens: int, temperature: float, top_p: float, stop: tuple[str, ...], deadline_s: float | None
) -> None:
    """Raise `InvalidOption` for the first of these that cannot be served."""
    if max_new_tokens < 1:
        raise InvalidOption("max_new_tokens", max_new_tokens, "at least 1")
    if not (isfinite(temperature) and 0 <= temperature <= 5):
        raise InvalidOption("temperature", temperature, "a number from 0 (greedy) to 5")
    if not 0 < top_p <= 1:
        raise InvalidOption("top_p", top_p, "more than 0 and at most 1")
    if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
        raise InvalidOption("stop", stop, "strings of at least one character each")
    if deadline_s is not None and not (isfinite(deadline_s) and deadline_s > 0):
        raise InvalidOption("deadline_s", deadline_s, "seconds, more than 0")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One continuation to generate.

    `temperature` 0 is greedy and ignores `top_p` and `seed`; without a `seed` sampling differs from run to
    run. `stop`: the text ends before the first of these strings. `deadline_s`: seconds from submission, time
    in the queue included. `continuations`: token ids whose likelihood behind the prompt is asked for besides;
    they change nothing of what is generated.

    Raises:
        InvalidOption: a value out of range, or no tokens at all.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    deadline_s: float | None = None
    continuations: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise InvalidOption("token_ids", self.token_ids, "at least one token")
        if not all(self.continuations):
            raise InvalidOption("continuations", self.continuations, "at least one token each")
        check_sampling(self.max_new_tokens, self.temperature, self.top_p, self.stop, self.deadline_s)


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished continuation and what it cost.

    `token_ids` are the tokens generated, the model's end token included where it came; `text` is what the
    stream handed out, without end token and stop string. `finish_reason`: `stop` (end token or stop string),
    `length` (`max_new_tokens`), `cancelled`, `deadline`. `prompt_tokens` counts what was asked, also where the
    request ended before all of it was read.

    `kv_entries` is the memory held at the peak: key/value pairs of one head, summed over layers and KV heads,
    so a model of 30 layers with 3 KV heads holds 90 per token. `kv_bytes` is the same in bytes. The token
    generated last is never read back and has no entries.

    `continuation_nll`: for each continuation asked for, in order, the negative log-likelihood of each of its
    tokens (nats), given the prompt as it was held in memory and the tokens before it; `score_s` is what that took,
    which is in no other time. Empty where the generation ended before the prompt was read.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    kv_entries: int
    kv_bytes: int
    continuation_nll: tuple[tuple[float, ...], ...] = ()
    score_s: float = 0.0
