"""What is held of the text of passages whose entries were evicted, character by character."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from refdesk.reader.passage import Passage
from refdesk.reader.prompt import Prompt, passage_head, passage_text

if TYPE_CHECKING:
    from refdesk.reader.model import ReaderModel


@dataclass(frozen=True, slots=True)
class HeldText:
    """The characters `[start, end)` of a document, and the `share` of layers and KV heads that hold the token they
    are of, 0 to 1."""

    document_id: str
    start: int
    end: int
    share: float


def held_text(
    prompt: Prompt, held: Sequence[NDArray[np.float32]], model: "ReaderModel"
) -> tuple[tuple[HeldText, ...], ...]:
    """Of each passage of a prompt, token by token; nothing where no policy thinned. `held` as in `Generation`."""
    if not held or not prompt.used:
        return ()
    by_passage = zip(prompt.used, _by_passage(prompt, held), strict=True)
    return tuple(tuple(_tokens(passage, shares, model)) for passage, shares in by_passage)


def _by_passage(prompt: Prompt, held: Sequence[NDArray[np.float32]]) -> Sequence[NDArray[np.float32]]:
    if prompt.reading == "apart":
        return held
    (together,) = held  # of the passages and the question, and of the instructions where no run has them
    lengths = list(map(len, prompt.passages))
    edges = accumulate(lengths, initial=len(together) - len(prompt.question) - sum(lengths))
    return [together[start:end] for start, end in pairwise(edges)]


def _tokens(passage: Passage, shares: NDArray[np.float32], model: "ReaderModel") -> Iterator[HeldText]:
    """Of those that have characters of the passage: a token over two ranges that are read is told twice."""
    encoding = model.literal_tokenizer.encode(passage_text(passage.title, passage.read), add_special_tokens=False)
    read = passage.read
    blank, inside = len(read) - len(read.lstrip()), len(read.rstrip())  # what is around that is not read
    shift = blank - len(passage_head(passage.title))
    places = [(start + shift, end + shift) for start, end in encoding.offsets]
    before = 0  # characters of the ranges in front
    for start, end in passage.ranges:
        first, last = max(before, blank), min(before + end - start, inside)
        source = passage.start + start - before
        for (begins, ends), share in zip(places, shares.tolist(), strict=True):
            begins, ends = max(begins, first), min(ends, last)
            if begins < ends:
                yield HeldText(passage.document_id, source + begins, source + ends, share)
        before += end - start
