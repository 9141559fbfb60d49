"""RAFT lessons out of questions (arXiv 2403.10131 section 3; methods of 2409.17648).

Of all questions, a share P is asked over passages that hold the answer, the others over passages that do not;
these learn to say so, and quote nothing. Every lesson has exactly as many passages as were drawn for it, none
twice, in random order.

A lesson is made for one question, with the passages that its retriever takes for the best. Whoever else can be
asked over the same passages is asked there too: reading them is what costs, and a distractor of one question is
the oracle of another. Each question is asked once a round.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.lesson import Exercise, Lesson
from refdesk.craft.question import SourceQuestion, holds, passage_key, quote_of
from refdesk.craft.recipe import DataRecipe
from refdesk.reader.answer_form import LONGEST_SHORT, NOT_FOUND, AnswerForm, write_answer
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import Reading

ASK = "Write a question that the passages answer, and its answer in words of the passages."
"""What stands in the place of a question where one is to be made."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A question, and whether its passages are to hold the answer."""

    question: SourceQuestion
    present: bool


def make_lessons(
    questions: Sequence[SourceQuestion],
    recipe: DataRecipe,
    source: str = "",
    beside: Sequence[SourceQuestion] = (),
) -> Iterator[Lesson]:
    """The lessons, in random order within a round. The passages of the questions `beside` may be distractors too.

    Raises:
        InvalidRecipe: there are too few passages to draw the distractors from.
    """
    pool = {
        passage_key(passage): passage
        for question in (*questions, *beside)
        for passage in (*question.oracles, *question.distractors)
    }
    for number in range(recipe.rounds):
        yield from _Round(questions, list(pool.values()), recipe, source, number).make()


def hold_out(
    questions: Sequence[SourceQuestion], share: float, seed: int
) -> tuple[list[SourceQuestion], list[SourceQuestion]]:
    """What to learn from, and about this share of the questions to validate with: all those whose first oracle is
    the same passage are on one side."""
    groups: dict[str, list[SourceQuestion]] = defaultdict(list)
    for question in questions:
        about = (*question.oracles, *question.distractors)
        groups[passage_key(about[0]) if about else question.id].append(question)
    keys = random.Random(f"{seed} held out").sample(sorted(groups), len(groups))
    held: list[SourceQuestion] = []
    while len(held) < share * len(questions) and len(groups) > 1:
        held += groups.pop(keys.pop())
    return [question for some in groups.values() for question in some], held


class _Round:
    """Every question once."""

    def __init__(
        self,
        questions: Sequence[SourceQuestion],
        everything: list[Passage],
        recipe: DataRecipe,
        source: str,
        number: int,
    ) -> None:
        self._everything = everything
        self._recipe = recipe
        self._source = source
        self._rng = random.Random(f"{recipe.seed} {number}")
        order = self._rng.sample(list(questions), len(questions))
        answerable = sum(question.answerable for question in order)
        share = recipe.oracle_share * len(order) / answerable if answerable else 0.0  # the others have none anyway
        self._wanted = [_Wanted(q, q.answerable and self._rng.random() < share) for q in order]
        self._asked: set[int] = set()
        self._at: dict[str, list[int]] = defaultdict(list)  # who may be asked over a passage
        for index, wanted in enumerate(self._wanted):
            question = wanted.question
            for passage in question.oracles if wanted.present else question.distractors[:5]:
                self._at[passage_key(passage)].append(index)

    def make(self) -> Iterator[Lesson]:
        for index in range(len(self._wanted)):
            if index not in self._asked:
                yield self._lesson(index)

    def _lesson(self, lead: int) -> Lesson:
        passages = self._passages(self._wanted[lead], self._rng.choice(self._recipe.distractors))
        keys = [passage_key(passage) for passage in passages]
        others = [index for key in keys for index in self._at[key]]
        self._rng.shuffle(others)
        chosen: list[int] = [lead]
        for index in dict.fromkeys(others):
            if len(chosen) == self._recipe.most_exercises:
                break
            if index != lead and index not in self._asked and self._fits(self._wanted[index], passages, keys):
                chosen.append(index)
        self._asked.update(chosen)
        exercises = [self._exercise(self._wanted[index], keys) for index in chosen]
        asks = len(passages) == 1 and self._rng.random() < self._recipe.ask_share
        if asks and len(exercises) < self._recipe.most_exercises:
            exercises += self._asking([self._wanted[index] for index in chosen])
        reading: Reading = "apart" if self._rng.random() < self._recipe.apart_share else "together"
        # A score is of one question's search, and a lesson has several.
        shown = tuple(replace(passage, score=0.0) for passage in passages)
        return Lesson(shown, reading, tuple(exercises), self._source)

    def _passages(self, wanted: _Wanted, distractors: int) -> list[Passage]:
        question = wanted.question
        oracles = {passage_key(passage): passage for passage in question.oracles}
        chosen = dict(oracles) if wanted.present else {}
        size = max(distractors + 1, len(chosen))
        for passage in chain(question.distractors, self._random_passages(size)):
            if len(chosen) == size:
                break
            key = passage_key(passage)
            if key not in oracles and not holds(passage.text, question.answers):
                chosen.setdefault(key, passage)
        if len(chosen) < size:
            found = len(chosen.keys() - oracles.keys())
            raise InvalidRecipe(
                f"distractors is {distractors}, but beside question {question.id!r} there are only {found}"
                " passages without its answer; give more documents, or fewer"
            )
        return self._rng.sample(list(chosen.values()), size)

    def _random_passages(self, size: int) -> Iterator[Passage]:
        """Any, should the hard ones not do: a few, then all, for these may all hold the answer."""
        yield from self._rng.sample(self._everything, min(4 * size, len(self._everything)))
        yield from self._rng.sample(self._everything, len(self._everything))

    def _fits(self, wanted: _Wanted, passages: list[Passage], keys: list[str]) -> bool:
        question = wanted.question
        if wanted.present:
            return all(passage_key(passage) in keys for passage in question.oracles)
        if any(passage_key(passage) in keys for passage in question.oracles):
            return False
        return not any(holds(passage.text, question.answers) for passage in passages)

    def _exercise(self, wanted: _Wanted, keys: list[str]) -> Exercise:
        question = wanted.question
        quote = quote_of(question) if question.answerable else ""
        form: AnswerForm = "short"
        if (quote or not wanted.present) and self._rng.random() < self._recipe.quote_share:
            form = "quote"
        elif question.answers and len(question.answers[0]) > LONGEST_SHORT:
            form = "long"
        if not wanted.present:
            return Exercise(question.id, question.question, write_answer(NOT_FOUND, "", form), form)
        return Exercise(
            id=question.id,
            question=question.question,
            target=write_answer(question.answers[0], quote, form),
            form=form,
            oracles=tuple(keys.index(passage_key(passage)) for passage in question.oracles),
        )

    def _asking(self, asked: list[_Wanted]) -> list[Exercise]:
        """One of the questions that this passage answers, to be asked."""
        for wanted in asked:
            question = wanted.question
            if wanted.present and quote_of(question):
                target = f"Question: {question.question}\nAnswer: {question.answers[0]}"
                return [Exercise(f"{question.id}#ask", ASK, target, oracles=(0,), kind="ask")]
        return []
