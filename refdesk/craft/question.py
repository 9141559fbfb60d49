"""A question to learn from: its answers, the passages that hold them, and passages that only look like it."""

import re
from dataclasses import dataclass

from refdesk.reader.passage import Passage
from refdesk.reader.sentences import split_sentences
from refdesk.reader.terms import STOP_WORDS, content_terms

_LONGEST_QUOTE = 400  # characters: what is longer is a table or a list, not a sentence
_TELL_NOTHING = STOP_WORDS | {"", "maybe"}  # by standing in a passage; a "no" is in most


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """`answers`: what counts as right, the canonical one first; none where the passages cannot answer it.
    `oracles`: all of them are needed, each in reading order. `distractors`: hard ones, best first, none of which
    holds an answer."""

    id: str
    question: str
    answers: tuple[str, ...]
    oracles: tuple[Passage, ...]
    distractors: tuple[Passage, ...] = ()

    @property
    def answerable(self) -> bool:
        """Whether there is an answer and a passage that holds it."""
        return bool(self.answers and self.oracles)


def passage_key(passage: Passage) -> str:
    """The same for the same text, wherever it was found."""
    return f"{passage.title}\0{passage.text}"


def holds(text: str, answers: tuple[str, ...]) -> bool:
    """Whether one of the answers stands in `text` in whole words, whatever their case and spacing. A "yes", a "no"
    and other words that are in any text are never held: they tell nothing."""
    return any(_found(text, answer) is not None for answer in answers)


def quote_of(question: SourceQuestion) -> str:
    """The sentence of an oracle that holds the answer, to the letter; of several, the one that shares most with
    the question. Empty where there is none, or where the answer is no wording of the passage, such as a "yes"."""
    asked = content_terms(question.question)
    candidates = []
    for passage in question.oracles:
        for start, end in split_sentences(passage.text):
            sentence = passage.text[start:end]
            if end - start <= _LONGEST_QUOTE and _found(sentence, question.answers[0]) is not None:
                candidates.append((len(asked & content_terms(sentence)), sentence))
    return max(candidates, key=lambda pair: pair[0], default=(0, ""))[1]


def normal(question: str) -> str:
    """A question by its words: two that are the same but for case and punctuation are the same."""
    return " ".join(re.findall(r"\w+", question.lower()))


def _found(text: str, answer: str) -> re.Match[str] | None:
    if normal(answer) in _TELL_NOTHING:
        return None
    pattern = r"\s+".join(map(re.escape, answer.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
