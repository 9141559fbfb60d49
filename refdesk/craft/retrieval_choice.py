"""Choosing retrieval heads (QRHead, arXiv 2506.09944): those whose attention goes from a question to its answer.

Passages of many lessons stand one behind the other in a text that is remembered as a document is; the questions of
these lessons look through it, and each head says by its attention which passage it would have.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refdesk.craft.errors import InvalidLessons
from refdesk.craft.heads_lessons import heads_lessons
from refdesk.craft.lesson import Lesson
from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.adapter import Adapter
from refdesk.reader.forward import query_heads
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import passage_text
from refdesk.reader.remember import RememberOptions, remember
from refdesk.reader.retrieval_heads import Heads
from refdesk.reader.submission import Submit
from refdesk.reader.whole_documents import document_front, look

COUNTS = (1, 2, 4, 8)  # as many are chosen as find best together
TEXTS, PASSAGES, QUESTIONS = 12, 40, 8  # the last two of each text

Numbers = NDArray[np.floating]
Scored = tuple[Numbers, Sequence[int]]


@dataclass(frozen=True)
class Gathered:
    """Passages that stand one behind the other, and questions with the places of the passages that answer them."""

    passages: tuple[Passage, ...]
    asked: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Look:
    """Where a question looks: `by_head` `[heads, stretches]`, the mean attention to a token of each; `gold`: the
    stretches with the answer, at least one. `half`: of the texts, 0 or 1."""

    by_head: Numbers
    gold: tuple[int, ...]
    half: int


@dataclass(frozen=True)
class Choice:
    """`heads`: the best of all questions. `found`: how often the stretch looked at most is one with the answer, or
    shares text with one, by as many of the best of one half of the texts on the other; how many is chosen by the
    same questions, so it is a little too high. `found_by_all`: by all heads together; `by_lot`: by none."""

    heads: Heads
    questions: int
    found: float
    found_by_all: float
    by_lot: float


def choose_retrieval_heads(
    model: ReaderModel,
    adapter: Adapter | None,
    submit: Submit,
    lessons: Iterable[Lesson],
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Choice:
    """Of all heads in the layers that retrieve. `report` gets the texts that are done, and how many there are;
    what it raises ends the work.

    Raises:
        InvalidLessons: there are too few to choose by, or what is chosen finds less than all heads do.
        PromptTooLong: a question does not fit the model's window.
        InvalidOption: the model's keys cannot be turned, as memories need.
        Interrupted, MemoryTooSmall, EngineClosed: see `Engine.submit`.
    """
    texts = list(gather(lessons, seed))
    if len(texts) < 2:
        raise InvalidLessons(
            f"the lessons make {len(texts)} texts of {PASSAGES} passages; expected 2 at least, one to choose heads"
            " by and one to try them on"
        )
    looks: list[Look] = []
    heads: Heads = ()
    for number, text in enumerate(texts):
        report(number, len(texts))
        heads, some = _looks(model, adapter, submit, text, number % 2)
        looks += some
    report(len(texts), len(texts))
    return choice(looks, heads)


def gather(lessons: Iterable[Lesson], seed: int) -> Iterator[Gathered]:
    """At most `TEXTS` texts of lessons whose questions are answered, each of at least `PASSAGES` passages that
    differ, in an order drawn by `seed`."""
    rng = random.Random(f"{seed} retrieval heads")
    passages: dict[str, Passage] = {}
    asked: dict[str, list[Passage]] = {}
    known: set[str] = set()  # asked in an earlier text, which may be of the other half
    made = 0
    for lesson in heads_lessons(lessons, 0.0, seed):
        passages |= {passage.text: passage for passage in lesson.passages}
        asked |= {
            one.question: [lesson.passages[place] for place in one.oracles]
            for one in lesson.exercises
            if one.question not in known
        }
        if len(passages) < PASSAGES or not asked:
            continue
        shown = rng.sample(list(passages.values()), len(passages))
        chosen = rng.sample(list(asked.items()), min(QUESTIONS, len(asked)))
        yield Gathered(tuple(shown), tuple((question, _places(shown, oracles)) for question, oracles in chosen))
        made += 1
        if made == TEXTS:
            return
        known |= asked.keys()
        passages, asked = {}, {}


def all_heads(model: ReaderModel, layers: Iterable[int]) -> Heads:
    """Of some layers."""
    return tuple((layer, head) for layer in layers for head in range(query_heads(model)))


def choice(looks: Sequence[Look], heads: Heads) -> Choice:
    """Of `heads`, by what questions of both halves look at. Raises InvalidLessons where the chosen find less
    than all of them do, or no more than chance."""
    halves = [[look for look in looks if look.half == half] for half in (0, 1)]

    def tried(count: int) -> list[Scored]:
        """Each question by the best heads of the other half."""
        best = [best_heads(some, count) for some in halves]
        return [(look.by_head[best[1 - look.half]].sum(0), look.gold) for look in looks]

    count = max(COUNTS, key=lambda count: np.mean([reciprocal_rank(*scored) for scored in tried(count)]))
    found = Choice(
        tuple(heads[index] for index in best_heads(looks, count)),
        len(looks),
        first_share(tried(count)),
        first_share([(look.by_head.sum(0), look.gold) for look in looks]),
        float(np.mean([len(look.gold) / look.by_head.shape[1] for look in looks])),
    )
    if found.found < found.found_by_all or found.found <= found.by_lot:
        raise InvalidLessons(
            f"by these lessons the best heads find {found.found:.2f} of the answers, all heads"
            f" {found.found_by_all:.2f}, chance {found.by_lot:.2f}; expected more of the best. Give more lessons,"
            " or some that the model can answer"
        )
    return found


def best_heads(looks: Sequence[Look], count: int) -> NDArray[np.intp]:
    """The places of those that are worth most, the best first."""
    return np.argsort(-worth(looks), kind="stable")[:count]


def worth(looks: Sequence[Look]) -> Numbers:
    """The mean reciprocal rank that each head gives the best stretch with the answer, `[heads]`."""
    mean: Numbers = np.mean([reciprocal_rank(look.by_head, look.gold) for look in looks], axis=0)
    return mean


def reciprocal_rank(scores: Numbers, gold: Sequence[int]) -> Numbers:
    """Of the best gold stretch, by `scores` `[..., stretches]`. Ties are against it: who looks nowhere finds
    nothing."""
    wrong = np.ones(scores.shape[-1], dtype=bool)
    wrong[list(gold)] = False
    best = scores[..., ~wrong].max(-1, keepdims=True)
    rank: Numbers = 1 / (1 + (scores[..., wrong] >= best).sum(-1))
    return rank


def first_share(scored: Sequence[Scored], count: int = 1) -> float:
    """How often gold is among the `count` best, of the scores `[stretches]` of each question and its gold."""
    return float(np.mean([reciprocal_rank(scores, gold) >= 1 / count for scores, gold in scored]))


def _places(shown: Sequence[Passage], oracles: Sequence[Passage]) -> tuple[int, ...]:
    """Of the passages that answer, and of what shares text with them."""
    return tuple(
        place
        for place, one in enumerate(shown)
        if any(one.text == oracle.text or one.overlaps(oracle) for oracle in oracles)
    )


def _looks(
    model: ReaderModel, adapter: Adapter | None, submit: Submit, text: Gathered, half: int
) -> tuple[Heads, list[Look]]:
    """The heads that retrieve, and where the questions of a text look by them."""
    encode = model.literal_tokenizer.encode
    parts = [encode(passage_text(one.title, one.text), add_special_tokens=False).ids for one in text.passages]
    tokens = tuple(token for part in parts for token in part)
    memory = remember(submit, model, tokens, document_front(model), RememberOptions(), adapter=adapter)
    heads = all_heads(model, memory.plan.retrieving)
    recall = RecallRequest((memory,), exact=True, heads=heads)
    begins = np.cumsum([0, *(len(part) for part in parts[:-1])])
    lengths = np.array([len(part) for part in parts])
    looks = []
    for question, gold in text.asked:
        mass = look(recall, question, model, adapter, submit).by_head[0].numpy()
        looks.append(Look(np.add.reduceat(mass, begins, axis=1) / lengths, gold, half))
    return heads, looks
