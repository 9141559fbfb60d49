"""Which sentences of the passages support an answer, as exact spans of the sources.

No model is asked. Each statement (sentence) of the answer is compared with each sentence of the passages, and
with each two adjacent ones:

- **Coverage** is the share of the statement's content words that the quote holds, each word weighted by its
  inverse document frequency over the passages' sentences. A word that no passage holds weighs most, so what the
  answer invents counts against every quote. Words that the question already has weigh a quarter: they show the
  topic, not the answer. A short answer that stands in the quote word for word is covered fully.
- **What must hold**, else it is no support: every number of the statement is in one sentence of the quote
  (numbers of two sentences belong to two facts), and the quote covers enough of what the statement adds to the
  question. A statement that adds nothing must be covered nearly whole. An abstention ("not found in the
  passages") is no statement.
- **Topic** is the share of the question's words found in the quote with the passage's title, and in the whole
  passage: an answer may stand in many sentences, and the one about the question is meant.

`support = coverage x (1 + topic) / 2`, in 0..1, higher is better. Two sentences are quoted only where they
cover clearly more than either one.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

from refdesk.reader.passage import Passage
from refdesk.reader.sentences import split_sentences
from refdesk.reader.terms import STOP_WORDS, content_terms, is_number, terms

_QUESTION_WORD_WEIGHT = 0.25
_LITERAL_TERMS = 8  # an answer of at most so many terms counts as covered where it stands word for word
_ENOUGH_NEW = 0.6  # of the weight of the words that the statement adds to the question
_ENOUGH_OLD = 0.9  # of the weight of all its words, for a statement that adds none
_ENOUGH_SUPPORT = 0.4
_TWO_SENTENCES_GAIN = 0.15
_PER_STATEMENT = 2
_ALSO_CITED = 0.9  # of the best support of the same statement

_ITEM_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.)]|[Aa]nswer:)\s+")
_ABSTENTION = re.compile(
    r"\b(?:not|cannot|can't|couldn't|unable to|doesn't|don't|isn't|aren't|wasn't|no)\b[^.!?]{0,40}?"
    r"\b(?:found|find|mention\w*|stated?|provided?|contain\w*|specif\w*|answer\w*|determine\w*|information)\b",
    re.IGNORECASE,
)
_SOURCES = re.compile(
    r"\b(?:passages?|texts?|documents?|context|sources?|collection|information|anything|in them)\b"
    r"|^\W*not found\W*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Citation:
    """`quote == source[start:end]`, in characters of the document's text: one or two whole sentences.

    `page` is where the quote begins, None for sources without pages. `support` in 0..1, higher is better.
    """

    document_id: str
    title: str
    page: int | None
    start: int
    end: int
    quote: str
    support: float


@dataclass(frozen=True, slots=True)
class _Quote:
    """One sentence, or two adjacent ones, of a passage; `topic` in 0..1."""

    passage: Passage
    start: int
    end: int
    terms: tuple[str, ...]
    sentences: tuple[frozenset[str], ...]
    content: frozenset[str]
    topic: float


def cite(answer: str, question: str, passages: Sequence[Passage]) -> list[Citation]:
    """The citations of `answer`, best first, none twice and none overlapping another; empty when nothing in
    `passages` supports it."""
    sentences = [[(span, terms(p.text[slice(*span)])) for span in split_sentences(p.text)] for p in passages]
    idf = _Idf([set(words) for passage in sentences for _, words in passage])
    asked = content_terms(question)
    quotes = [quote for p, s in zip(passages, sentences, strict=True) for quote in _quotes(p, s, asked, idf)]
    found: list[Citation] = []
    for start, end in split_sentences(answer):
        statement = _ITEM_MARK.sub("", answer[start:end])
        if not _abstains(statement):
            found.extend(_supporting(statement, asked, quotes, idf))
    kept: list[Citation] = []
    for citation in sorted(found, key=lambda c: -c.support):
        if not any(_overlap(citation, other) for other in kept):
            kept.append(citation)
    return kept


def cite_quotes(quotes: Sequence[str], passages: Sequence[Passage]) -> list[Citation]:
    """Where the quotes stand, to the letter but for white space, in their order and none twice; those that stand
    in no passage are left out."""
    found: list[Citation] = []
    for words in filter(None, dict.fromkeys(tuple(quote.split()) for quote in quotes)):
        pattern = re.compile(r"\s+".join(map(re.escape, words)))
        place = next(((p, match) for p in passages if (match := pattern.search(p.text))), None)
        if place is not None:
            passage, match = place
            found.append(_cited(passage, match.start(), match.end(), support=1.0))
    return found


def is_abstention(answer: str) -> bool:
    """Whether the answer begins by saying that the passages do not hold it."""
    first = next(iter(split_sentences(answer)), None)
    return first is not None and _abstains(answer[slice(*first)])


def _abstains(statement: str) -> bool:
    return bool(_ABSTENTION.search(statement) and _SOURCES.search(statement))


class _Idf:
    """Inverse document frequencies over sentences (BM25's form, always positive)."""

    def __init__(self, sentences: list[set[str]]) -> None:
        self._count = len(sentences)
        self._holding = Counter(term for sentence in sentences for term in sentence)

    def weight(self, words: set[str] | frozenset[str], light: set[str] | frozenset[str] = frozenset()) -> float:
        """The summed weight of `words`; those in `light` at a quarter."""
        return sum(
            log(1 + (self._count - self._holding[word] + 0.5) / (self._holding[word] + 0.5))
            * (_QUESTION_WORD_WEIGHT if word in light else 1)
            for word in words
        )

    def share(self, words: set[str], among: set[str] | frozenset[str], light: set[str]) -> float:
        """How much of the weight of `words` is in `among`, 0..1; 0 without words."""
        return self.weight(words & among, light) / self.weight(words, light) if words else 0.0


def _quotes(
    passage: Passage, sentences: list[tuple[tuple[int, int], list[str]]], asked: set[str], idf: _Idf
) -> Iterator[_Quote]:
    title = content_terms(passage.title)
    everywhere = title.union(*(words for _, words in sentences))
    about = idf.share(asked, everywhere, set())
    for first in range(len(sentences)):
        for last in (first, first + 1):
            if last < len(sentences):
                words = [word for _, words in sentences[first : last + 1] for word in words]
                parts = tuple(frozenset(words) - STOP_WORDS for _, words in sentences[first : last + 1])
                content = frozenset().union(*parts)
                topic = (idf.share(asked, content | title, set()) + about) / 2
                span = sentences[first][0][0], sentences[last][0][1]
                yield _Quote(passage, *span, tuple(words), parts, content, topic)


def _supporting(statement: str, asked: set[str], quotes: list[_Quote], idf: _Idf) -> list[Citation]:
    """At most two citations of one statement, best first."""
    words = terms(statement)
    content = set(words) - STOP_WORDS
    if not content:
        return []
    scored = [(_support(words, content, asked, quote, idf), quote) for quote in quotes]
    candidates = sorted(
        (pair for pair in scored if pair[0] >= _ENOUGH_SUPPORT), key=lambda pair: pair[0], reverse=True
    )
    chosen: list[Citation] = []
    for score, quote in candidates:
        citation = _citation(quote, score)
        if score < _ALSO_CITED * candidates[0][0] or len(chosen) == _PER_STATEMENT:
            break
        if not any(_overlap(citation, other) for other in chosen):
            chosen.append(citation)
    return chosen


def _support(words: list[str], content: set[str], asked: set[str], quote: _Quote, idf: _Idf) -> float:
    """0 when the quote is no support for a statement of these `words`."""
    numbers = {word for word in content if is_number(word)}
    if not any(numbers <= sentence for sentence in quote.sentences):
        return 0.0
    new = content - asked
    if len(words) <= _LITERAL_TERMS and new and len(quote.sentences) == 1 and _stands_in(words, quote.terms):
        coverage = 1.0
    else:
        coverage = idf.share(content, quote.content, asked)
        enough = idf.share(new, quote.content, set()) >= _ENOUGH_NEW if new else coverage >= _ENOUGH_OLD
        if not enough:
            return 0.0
    if len(quote.sentences) == 2:
        either = max(idf.share(content, sentence, asked) for sentence in quote.sentences)
        if coverage < either + _TWO_SENTENCES_GAIN:
            return 0.0
    return coverage * (1 + quote.topic) / 2


def _stands_in(words: list[str], among: tuple[str, ...]) -> bool:
    size = len(words)
    return any(among[i] == words[0] and list(among[i : i + size]) == words for i in range(len(among) - size + 1))


def _citation(quote: _Quote, support: float) -> Citation:
    return _cited(quote.passage, quote.start, quote.end, round(support, 4))


def _cited(passage: Passage, start: int, end: int, support: float) -> Citation:
    """`passage.text[start:end]` as a citation."""
    return Citation(
        document_id=passage.document_id,
        title=passage.title,
        page=passage.page_at(start),
        start=passage.start + start,
        end=passage.start + end,
        quote=passage.text[start:end],
        support=support,
    )


def _overlap(one: Citation, other: Citation) -> bool:
    return one.document_id == other.document_id and one.start < other.end and other.start < one.end
