"""Passkeys in texts many times longer than the window: whether attention finds them, at every depth.

`python -m bench.passkeys PATH [TOKENS...]`. A text of so many tokens is remembered once, in `.bench/memories`.
Each passkey then takes the place of as many of its tokens; only the chunks that it stands in are read again, and
what they leave is put into the memory, in RAM: the same as if the whole text had been read with it. The sentence
and the first question are those of Mohtashami and Jaggi (arXiv 2305.16300); the second cannot be taken to ask what
a pass key is.

Of the stretches that a question looks at and that are similar to it the best are read (`context: document`), one
or three; one passkey at each depth is asked for without reading anything, too (`attended`). A passkey is found if
it stands whole in what is read, and said if it is in the answer, which may not be that there is none. Beside it
stands in how many a stretch with the passkey is the best by similarity alone, as passages are retrieved (dense),
and by attention alone.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import mean, median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bench.kv_memory import MODELS, head, note, row
from bench.long import NEW, answering, nlls, reader_and_novel
from refdesk.app.retrieval_heads import find_retrieval_heads
from refdesk.memory.document_memory import DocumentMemory
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.options import Looking
from refdesk.memory.sequence import Sequence
from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.adapter import Adapter
from refdesk.reader.engine import Engine
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prompt import encode_answer, encode_segments
from refdesk.reader.qa import QA, Answer, AnswerOptions
from refdesk.reader.remember import RememberOptions, chunks_of, entries_of, remember
from refdesk.reader.retrieval_heads import Heads
from refdesk.reader.submission import generated
from refdesk.reader.thinning import thinning_of
from refdesk.reader.whole_documents import (
    document_front,
    look,
    looking_through,
    most_attended,
)
from refdesk.retriever.embedder import Embedder

MEMORIES = Path(".bench/memories")
TOKENS = (16_000, 32_000, 131_000, 524_000)
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
EACH = 4
STRETCH, OVERLAP = 200, 40  # as the chunks of a collection
READ = (1, 3)
ALONE = ("similarity", "attention")
SENTENCE = " The pass key is {0}. Remember it. {0} is the pass key. "
SAID = "{0} is the pass key"
QUESTIONS = ("What is the pass key?", "What number is the pass key?")


@dataclass(frozen=True)
class Reader:
    """Who reads and answers."""

    engine: Engine
    model: ReaderModel
    adapter: Adapter | None
    heads: Heads | None
    embedder: Embedder

    def remembered(self, tokens: tuple[int, ...], folder: Path) -> float:
        """The seconds that it takes to make a memory of `tokens` in `folder`; nan where it is there."""
        started = perf_counter()
        try:
            DocumentMemory.load(folder)
            return float("nan")
        except InvalidMemory:
            shutil.rmtree(folder, ignore_errors=True)  # one that is gone on with would be timed in part
            remember(
                self.engine.submit,
                self.model,
                tokens,
                document_front(self.model),
                RememberOptions(),
                adapter=self.adapter,
                folder=folder,
                progress=lambda done: note(f"{done} of {len(tokens)} tokens read"),
            )
        return perf_counter() - started

    def changed(self, folder: Path, tokens: tuple[int, ...], start: int, end: int) -> DocumentMemory:
        """The memory in `folder` as it were if the text had been `tokens`, which differ from `start` to `end`.
        Files stay as they are: what is loaded is copied where it is written to."""
        memory = DocumentMemory.load(folder)
        front = document_front(self.model)
        options = RememberOptions()
        thinning = thinning_of(options.keep, options.rate, self.model, self.adapter, None)
        for chunk in chunks_of(self.model, len(tokens), front, options, thinning):
            if chunk.end <= start or chunk.start >= end:
                continue

            def collect(sequence: Sequence, first: int = chunk.kept - chunk.start, at: int = chunk.kept) -> None:
                memory.write(at, *entries_of(sequence, first)[:2])

            read = tokens[chunk.start : chunk.end]
            request = GenerationRequest(read, 1, front=front, adapter=self.adapter, collect=collect)
            generated(self.engine.submit, [request])
        return memory

    def stretches(self, tokens: tuple[int, ...]) -> "Stretches":
        """What can be found of a text."""
        spans = [(first, min(first + STRETCH, len(tokens))) for first in range(0, len(tokens), STRETCH - OVERLAP)]
        return Stretches(spans, self._vectors(tokens, spans))

    def with_passkey(self, of: "Stretches", tokens: tuple[int, ...], start: int, end: int) -> "Stretches":
        """The same of a text that differs from `start` to `end`."""
        other = [index for index, (first, last) in enumerate(of.spans) if first < end and start < last]
        vectors = of.vectors.copy()
        vectors[other] = self._vectors(tokens, [of.spans[index] for index in other])
        return Stretches(of.spans, vectors)

    def _vectors(self, tokens: tuple[int, ...], spans: list[tuple[int, int]]) -> NDArray[np.float32]:
        return self.embedder.embed([self._text(tokens, span) for span in spans])

    def _text(self, tokens: tuple[int, ...], span: tuple[int, int]) -> str:
        return self.model.tokenizer.decode(list(tokens[slice(*span)]))

    def found(
        self, question: str, memory: DocumentMemory, tokens: tuple[int, ...], of: "Stretches", exact: bool
    ) -> dict[str, tuple[Passage, ...]]:
        """The best stretches for a question, by what is asked for them; `exact`: of all keys, whatever an index
        would propose."""
        recall = replace(looking_through((memory,), Looking(), self.heads, self.model.window), exact=exact)
        attended = look(recall, question, self.model, self.adapter, self.engine.submit).attended
        similar = of.vectors @ self.embedder.embed([question])[0]
        spans, starts, most = [of.spans], [np.arange(len(tokens))], max(READ)
        best = {
            "both": [index for _, index in most_attended(attended, starts, spans, most, [similar.tolist()])],
            "attention": [index for _, index in most_attended(attended, starts, spans, most)],
            "similarity": np.argsort(-similar, kind="stable")[:most].tolist(),
        }
        return {
            by: tuple(
                Passage("novel", "", text, 0, len(text), score=0.0)
                for text in (self._text(tokens, of.spans[index]) for index in some)
            )
            for by, some in best.items()
        }

    def read(self, question: str, passages: tuple[Passage, ...], passkey: str) -> Answer:
        """With no way out."""
        options = AnswerOptions(max_new_tokens=NEW, adapter=self.adapter, abstain=1.0, reference=passkey)
        return QA(lambda question, k, documents: passages, self.model, self.engine).answer(question, options)

    def attended(self, question: str, recall: RecallRequest | None, passkey: str) -> Generation:
        """Over memories, or closed book."""
        segments = encode_segments(question, (), self.model, open_book=recall is not None)
        request = GenerationRequest(
            segments.asked,
            NEW,
            front=(segments.before,),
            continuations=(encode_answer(passkey, self.model),),
            adapter=self.adapter,
            abstention=None if recall is None else answering(self.model),
            recall=recall,
        )
        return self.engine.submit(request).result()


@dataclass(frozen=True)
class Stretches:
    """Of a text what can be found: `[start, end)` in tokens, and their vectors."""

    spans: list[tuple[int, int]]
    vectors: NDArray[np.float32]


@dataclass
class Asked:
    """What came of one question at one depth: in how many a stretch with the passkey is the best by either alone,
    the answers over the best by both by how many were read, the seconds that finding took, and the first passkey
    `attended` and closed book."""

    alone: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ALONE, 0))
    read: dict[int, list[Answer]] = field(default_factory=lambda: {count: [] for count in READ})
    seconds: list[float] = field(default_factory=list)
    whole: list[Generation] = field(default_factory=list)


def main(data: Path, lengths: tuple[int, ...] = TOKENS) -> None:
    """Print a table over lengths, depths and questions."""
    model, adapter, novel = reader_and_novel(data)
    print(f"bfloat16, entries {RecallRequest.entries}, stretches of {STRETCH}, {EACH} passkeys at each depth\n")
    of = (f"{what} of {count}" for count in READ for what in ("found in the best", "said", "nll"))
    alone = (f"the best by {by} alone" for by in ALONE)
    head(
        *("tokens", "times the window", "depth", "question", *alone, *of, "seconds to find"),
        *("attended: said", "nll"),
        *("closed book nll", "what else it said of the best"),
    )
    with Engine(model) as engine:
        reader = Reader(engine, model, adapter, find_retrieval_heads(MODELS, model), Embedder())
        for count in lengths:
            text = tuple(islice(cycle(novel), count))
            stretches = reader.stretches(text)
            for depth, passkeys in drawn(count):
                _rows(reader, text, stretches, depth, passkeys)


def drawn(seed: int) -> Iterator[tuple[float, list[str]]]:
    """Of each depth its passkeys, five digits each."""
    draw = random.Random(seed)
    for depth in DEPTHS:
        yield depth, [str(draw.randrange(10_000, 100_000)) for _ in range(EACH)]


def _rows(reader: Reader, text: tuple[int, ...], stretches: Stretches, depth: float, passkeys: list[str]) -> None:
    folder = MEMORIES / f"novel-{len(text)}"
    reader.remembered(text, folder)
    asked = {question: Asked() for question in QUESTIONS}
    for passkey in passkeys:
        needle = reader.model.literal_tokenizer.encode(SENTENCE.format(passkey), add_special_tokens=False).ids
        start = int(depth * len(text))
        end = start + len(needle)
        tokens = text[:start] + tuple(needle) + text[end:]
        memory = reader.changed(folder, tokens, start, end)
        changed = reader.with_passkey(stretches, tokens, start, end)
        for question, of in asked.items():
            started = perf_counter()
            found = reader.found(question, memory, tokens, changed, exact=True)  # an index knows no passkey
            of.seconds.append(perf_counter() - started)
            for by in ALONE:
                of.alone[by] += SAID.format(passkey) in found[by][0].text
            for count, answers in of.read.items():
                answers.append(reader.read(question, found["both"][:count], passkey))
            if not of.whole:
                recalls = (RecallRequest((memory,), exact=True), None)
                of.whole = [reader.attended(question, recall, passkey) for recall in recalls]
    for question, of in asked.items():
        where = len(text), f"{len(text) / reader.model.window:.1f}", depth, question
        row(*where, *_cells(of, passkeys))


def _cells(of: Asked, passkeys: list[str]) -> Iterator[str]:
    yield from (str(count) for count in of.alone.values())
    for answers in of.read.values():
        pairs = list(zip(passkeys, answers, strict=True))
        yield str(sum(any(SAID.format(key) in one.text for one in answer.passages) for key, answer in pairs))
        yield str(sum(key in answer.text for key, answer in pairs))
        yield f"{mean(_given(answer.reference_nll) for answer in answers):.2f}"
    yield f"{median(of.seconds):.1f}"
    yield "yes" if passkeys[0] in of.whole[0].text else "no"
    yield from (nlls([one]) for one in of.whole)
    best = zip(passkeys, of.read[READ[0]], strict=True)
    yield "; ".join(one.text.strip() for key, one in best if key not in one.text)


def _given(nll: float | None) -> float:
    assert nll is not None, "a reference was given"
    return nll


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])) or TOKENS)
