"""What a pipeline made of a question: all that a metric may look at besides the example."""

from dataclasses import dataclass

from refdesk.eval.example import Span
from refdesk.reader.held_text import HeldText


@dataclass(frozen=True, slots=True)
class Outcome:
    """`context`: the characters of the documents that the reader saw, in its order. `held`: where entries of it
    were evicted, of each passage the share of layers and KV heads that hold each token. `citations`: where the
    answer points.
    `ranking`: ids of documents as they were retrieved, best first, each once; None when the pipeline ranks
    nothing. `nll`: the mean negative log-likelihood (nats per token) of the canonical answer, given exactly
    the context that the reader saw; None where there is none. `abstained`: the answer says that it cannot be
    found. `well_formed`: the answer keeps to the form that was asked for, and its quotes are true.
    """

    answer: str
    context: tuple[Span, ...] = ()
    held: tuple[tuple[HeldText, ...], ...] = ()
    citations: tuple[Span, ...] = ()
    ranking: tuple[str, ...] | None = None
    nll: float | None = None
    abstained: bool = False
    well_formed: bool = True
