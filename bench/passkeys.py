"""Passkeys in texts many times longer than the window: whether retrieval attention finds them, at every depth.

`python -m bench.passkeys PATH [TOKENS...]`. A text of so many tokens is remembered once, in `.bench/memories`.
Each passkey then takes the place of as many of its tokens; only the chunks that it stands in are read again, and
what they leave is put into the memory, in RAM: the same as if the whole text had been read with it. The sentence
and the question are those of Mohtashami and Jaggi (arXiv 2305.16300).

A passkey is `said` if it is in the answer, which may not be that there is none; it is `told` if it is likelier
than each of nine that stand nowhere.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from bench.documents import MEMORIES, NEW
from bench.kv_memory import head, note, row
from bench.long import answering, reader_and_novel
from refdesk.memory.document_memory import DocumentMemory
from refdesk.memory.errors import InvalidMemory
from refdesk.memory.sequence import Sequence
from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.adapter import Adapter
from refdesk.reader.engine import Engine
from refdesk.reader.generation import Generation, GenerationRequest
from refdesk.reader.model import ReaderModel
from refdesk.reader.prompt import encode_answer, encode_segments
from refdesk.reader.remember import RememberOptions, entries_of, remember
from refdesk.reader.submission import generated
from refdesk.reader.whole_documents import document_front

TOKENS = (16_000, 32_000, 131_000, 524_000)
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
EACH = 4
OTHERS = 9
SENTENCE = " The pass key is {0}. Remember it. {0} is the pass key. "
QUESTION = "What is the pass key?"


@dataclass(frozen=True)
class Reader:
    """Who reads and answers."""

    engine: Engine
    model: ReaderModel
    adapter: Adapter | None

    def remembered(self, tokens: tuple[int, ...]) -> Path:
        """The folder of a memory of `tokens`, which is made if it is not there."""
        folder = MEMORIES / f"novel-{len(tokens)}"
        try:
            DocumentMemory.load(folder)
        except InvalidMemory:
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
        return folder

    def changed(self, folder: Path, tokens: tuple[int, ...], start: int, end: int) -> DocumentMemory:
        """The memory in `folder` as it were if the text had been `tokens`, which differ from `start` to `end`.
        Files stay as they are: what is loaded is copied where it is written to."""
        memory = DocumentMemory.load(folder)
        front = document_front(self.model)
        for chunk in RememberOptions().chunks(len(tokens), self.model.window - sum(map(len, front)) - 1):
            if chunk.end <= start or chunk.start >= end:
                continue

            def collect(sequence: Sequence, first: int = chunk.kept - chunk.start, at: int = chunk.kept) -> None:
                memory.write(at, *entries_of(sequence, first)[:2])

            read = tokens[chunk.start : chunk.end]
            request = GenerationRequest(read, 1, front=front, adapter=self.adapter, collect=collect)
            generated(self.engine.submit, [request])
        return memory

    def asked(self, memory: DocumentMemory | None, passkeys: list[str]) -> Generation:
        """Over the memory, or closed book; with the likelihood of these."""
        question = encode_segments(QUESTION, (), self.model, open_book=memory is not None)
        request = GenerationRequest(
            question.asked,
            NEW,
            front=(question.before,),
            continuations=tuple(encode_answer(passkey, self.model) for passkey in passkeys),
            adapter=self.adapter,
            abstention=None if memory is None else answering(self.model),
            # The index knows the text without the passkey.
            recall=None if memory is None else RecallRequest((memory,), exact=True),
        )
        return self.engine.submit(request).result()


def main(data: Path, lengths: tuple[int, ...] = TOKENS) -> None:
    """Print a table over lengths and depths."""
    model, adapter, novel = reader_and_novel(data)
    print(f"bfloat16, entries {RecallRequest.entries}, {EACH} passkeys at each depth\n")
    head("tokens", "times the window", "depth", "said", "told", "nll", "closed book nll", "what else it said")
    with Engine(model) as engine:
        reader = Reader(engine, model, adapter)
        for count in lengths:
            for depth, passkeys in drawn(count):
                _row(reader, tuple(islice(cycle(novel), count)), depth, passkeys)


def drawn(seed: int) -> Iterator[tuple[float, list[list[str]]]]:
    """Of each depth its passkeys, five digits each, and with each of them others."""
    draw = random.Random(seed)
    for depth in DEPTHS:
        yield depth, [[str(draw.randrange(10_000, 100_000)) for _ in range(1 + OTHERS)] for _ in range(EACH)]


def _row(reader: Reader, text: tuple[int, ...], depth: float, drawn: list[list[str]]) -> None:
    folder = reader.remembered(text)
    said = told = 0
    nll: list[float] = []
    floor: list[float] = []
    wrong: list[str] = []
    for passkeys in drawn:
        sentence = SENTENCE.format(passkeys[0])
        needle = tuple(reader.model.literal_tokenizer.encode(sentence, add_special_tokens=False).ids)
        start = int(depth * len(text))
        end = start + len(needle)
        memory = reader.changed(folder, text[:start] + needle + text[end:], start, end)
        answer = reader.asked(memory, passkeys)
        likely = _means(answer)
        nll.append(likely[0])
        told += likely[0] == min(likely)
        floor.append(_means(reader.asked(None, passkeys[:1]))[0])
        if passkeys[0] in answer.text:
            said += 1
        else:
            wrong.append(answer.text.strip())
    row(
        len(text),
        f"{len(text) / reader.model.window:.1f}",
        depth,
        f"{said} of {len(drawn)}",
        f"{told} of {len(drawn)}",
        f"{sum(nll) / len(nll):.2f}",
        f"{sum(floor) / len(floor):.2f}",
        "; ".join(wrong),
    )


def _means(answer: Generation) -> list[float]:
    """Of each continuation, over its tokens."""
    return [sum(one) / len(one) for one in answer.continuation_nll]


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])) or TOKENS)
