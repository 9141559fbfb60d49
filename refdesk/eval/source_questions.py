"""Questions to train on, out of a benchmark: passages as the service chunks them, distractors as it retrieves
them."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refdesk.craft.question import SourceQuestion, holds, normal
from refdesk.eval.corpus import collection_name, ensure_ingested
from refdesk.eval.dataset import Dataset
from refdesk.eval.desk import Desk
from refdesk.eval.errors import InvalidDataset
from refdesk.eval.example import Example, documents_of
from refdesk.eval.part import Part, is_in, texts_of
from refdesk.eval.task import Task
from refdesk.eval.tasks import find_task
from refdesk.reader.passage import Passage
from refdesk.reader.qa import Retrieve

Progress = Callable[[str, int, int], None]
"""Called often with the stage, what is done and what there is to do; it raises what stops the work."""

_DISTRACTORS = 30
_LONG = 5000  # characters; a question about a longer text means that text, and is searched for in it alone
_LONGEST_ANSWER = 800  # characters; a small model does not learn to write more
_WHOLE = 3  # chunks: an answer in no wording of the text is taught with all of the gold passage, if that is short


@dataclass(frozen=True, slots=True)
class TaskSource:
    """A benchmark to learn from. `limit`: that many questions, drawn by `seed`; None for all of the `part`.
    `rounds`: so many times as often as those of other sources its questions are asked, over other passages each
    time."""

    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    part: Part = "train"
    limit: int | None = None
    seed: int = 0
    rounds: int = 1

    def examples(self, data: Path) -> list[Example]:
        """The examples of its part. Raises what `find_task` and `Task.examples` raise."""
        found = [e for e in self._task().examples(data) if is_in(self.part, self.task, e)]
        if self.limit is not None and self.limit < len(found):
            found = random.Random(self.seed).sample(found, self.limit)
        return found

    def _task(self) -> Task:
        return find_task(self.task, dict(self.options))


@dataclass(frozen=True, slots=True)
class KeptBack:
    """What is used to evaluate: `questions`, by their words, and the `texts` that they are about."""

    questions: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "KeptBack":
        """What these examples ask, and what about."""
        kept = list(examples)
        return cls(
            frozenset(normal(example.question) for example in kept),
            frozenset(text for example in kept for text in texts_of(example)),
        )

    def holds(self, example: Example) -> bool:
        """Whether the example asks one of the questions, or about one of the texts."""
        return normal(example.question) in self.questions or not self.texts.isdisjoint(texts_of(example))


def kept_back(sources: list[TaskSource], data: Path) -> KeptBack:
    """The validation parts of these benchmarks, and all of `nq`."""
    names = dict.fromkeys(source.task for source in sources if source.part == "train")
    held = [TaskSource("nq", part="all"), *(TaskSource(name, part="validation") for name in names)]
    return KeptBack.of(example for source in held for example in source.examples(data))


def dataset_examples(dataset: Dataset) -> list[Example]:
    """What may be trained on of an uploaded data set: it shares no question and no text with the part
    `validation`, which is there to evaluate on.

    Raises:
        InvalidDataset: no question that is left has a document that is marked as gold.
    """
    held = KeptBack.of(example for example in dataset.rows if is_in("validation", "dataset", example))
    found = [e for e in dataset.rows if is_in("train", "dataset", e) and not held.holds(e)]
    if not any(example.gold for example in found):
        raise InvalidDataset(
            'no question to train on has a document marked "gold": true that no question kept back to validate is'
            " about; expected some that do"
        )
    return found


def source_questions(
    desk: Desk, task: str, examples: Sequence[Example], progress: Progress
) -> list[SourceQuestion]:
    """The questions, with their passages. Left out are those with a very long answer, and those whose answer
    stands in no single passage, unless the gold passage as a whole is short."""
    examples = [example for example in examples if example.documents]
    documents = documents_of(examples)
    name = collection_name(f"craft.{task}", documents)
    ensure_ingested(desk, name, documents, lambda stage: progress(stage, 0, len(examples)))
    retrieve = desk.retriever(name, "hybrid")
    found = []
    for number, example in enumerate(examples):
        progress("retrieve", number, len(examples))
        question = _source_question(task, example, retrieve)
        if question is not None:
            found.append(question)
    return found


def _source_question(task: str, example: Example, retrieve: Retrieve) -> SourceQuestion | None:
    gold = _gold_passages(example, retrieve)
    if not gold:
        return None
    own = tuple(document.id for document in example.documents)
    long = sum(len(document.text) for document in example.documents) > _LONG
    answers = tuple(answer for answer in example.answers if answer.strip())
    if answers and len(answers[0]) > _LONGEST_ANSWER:
        return None
    hard = [
        passage
        for passage in retrieve(example.question, _DISTRACTORS, own if long else None)
        if not any(passage.overlaps(one) for one in gold) and not holds(passage.text, answers)
    ]
    if not example.answerable:
        # What the question was written about is the hardest of all.
        return SourceQuestion(f"{task}:{example.id}", example.question, (), (), (*gold, *hard))
    oracles = _oracles(example, gold)
    return (
        SourceQuestion(f"{task}:{example.id}", example.question, answers, oracles, tuple(hard))
        if oracles
        else None
    )


def _gold_passages(example: Example, retrieve: Retrieve) -> list[Passage]:
    """The chunks that lie in gold passages, in the order of these, then best first."""
    found: list[Passage] = []
    for document in dict.fromkeys(span.document_id for span in example.gold):
        for passage in retrieve(example.question, 100, (document,)):
            spans = [span for span in example.gold if span.document_id == document]
            if any(passage.start < span.end and span.start < passage.end for span in spans):
                found.append(passage)
    return found


def _oracles(example: Example, gold: list[Passage]) -> tuple[Passage, ...]:
    """The chunks that are needed: of a question over several documents one of each, else the one with the
    answer."""
    documents = dict.fromkeys(passage.document_id for passage in gold)
    holding = [passage for passage in gold if holds(passage.text, example.answers)]
    if len(documents) > 1:
        best = {one: [p for p in gold if p.document_id == one] for one in documents}
        return tuple(next((p for p in some if p in holding), some[0]) for some in best.values())
    if holding:
        return (holding[0],)
    return tuple(gold) if len(gold) <= _WHOLE else ()
