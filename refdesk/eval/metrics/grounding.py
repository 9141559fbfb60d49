"""Whether the answer stands on the right text: gold words kept, gold passages cited. 0 to 1, higher is better."""

import re
from collections.abc import Iterator

from refdesk.eval.example import Example, Span
from refdesk.eval.metrics.outcome import Outcome

_WORD = re.compile(r"\w+")


def kept_gold(example: Example, outcome: Outcome) -> float | None:
    """The share of the gold answer's words that the reader saw and holds, at the place where most of them are. A
    word of which entries were evicted counts by the share of layers and KV heads that hold it.

    A place is where a right answer stands in a gold passage, or anywhere in the documents if no gold passage is
    known. None if there is no such place. It moves even when the reader is too weak to answer (kept-gold rate).
    """
    shares = [_kept(place, example, outcome) for place in _places(example)]
    return max(shares, default=None)


def cited_gold(example: Example, outcome: Outcome) -> float | None:
    """Citation precision: the share of citations that touch a gold passage, or lie in a relevant document where
    only those are known. None without citations, or where nothing is known."""
    gold = _gold(example)
    if not gold or not outcome.citations:
        return None
    return sum(any(_touch(cited, one) for one in gold) for cited in outcome.citations) / len(outcome.citations)


def gold_cited(example: Example, outcome: Outcome) -> float | None:
    """Citation recall: the share of gold passages (or relevant documents) that a citation touches. None where
    nothing is known, or nothing could be cited."""
    gold = _gold(example)
    if not gold or not example.answerable:
        return None
    return sum(any(_touch(cited, one) for cited in outcome.citations) for one in gold) / len(gold)


def _gold(example: Example) -> list[Span]:
    if example.gold:
        return list(example.gold)
    return [Span(document, 0, 2**62) for document, grade in example.relevance.items() if grade > 0]


def _places(example: Example) -> Iterator[Span]:
    texts = {document.id: document.text for document in example.documents}
    everywhere = [Span(document, 0, len(text)) for document, text in texts.items()]
    for span in [one for one in example.gold or everywhere if one.document_id in texts]:
        for answer in example.answers:
            pattern = r"\s+".join(map(re.escape, answer.split()))
            for found in re.finditer(rf"(?<!\w){pattern}(?!\w)", texts[span.document_id], re.IGNORECASE):
                if pattern and span.start <= found.start() and found.end() <= span.end:
                    yield Span(span.document_id, found.start(), found.end())


def _kept(place: Span, example: Example, outcome: Outcome) -> float:
    text = next(document.text for document in example.documents if document.id == place.document_id)
    words = [
        (place.start + w.start(), place.start + w.end()) for w in _WORD.finditer(text[place.start : place.end])
    ]
    seen = [span for span in outcome.context if span.document_id == place.document_id]
    kept = [
        _held(place.document_id, start, end, outcome)
        for start, end in words
        if any(span.start <= start and end <= span.end for span in seen)
    ]
    return sum(kept) / len(words) if words else 0.0


def _held(document_id: str, start: int, end: int, outcome: Outcome) -> float:
    """The share of a word's entries that are held, of the passage that holds most of it: all, where none was
    evicted."""
    word = Span(document_id, start, end)
    copies = [
        [one.share for one in passage if _touch(Span(one.document_id, one.start, one.end), word)]
        for passage in outcome.held
    ]
    return max((sum(shares) / len(shares) for shares in copies if shares), default=1.0)


def _touch(one: Span, other: Span) -> bool:
    return one.document_id == other.document_id and one.start < other.end and other.start < one.end
