"""Passages read together, or apart with cold, kept and warm runs: when the first word comes, and the end.

Real text, the manual's and the data's, cut to passages of 200 tokens, and real questions.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.kv_memory import load, note, stretches, texts
from refdesk.memory.kept_runs import Entries, read_run, run_file_name
from refdesk.memory.pool import block_bytes
from refdesk.memory.runs import RunKey
from refdesk.reader.engine import Engine
from refdesk.reader.forward import cache_shape
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.prepare import PassageRuns
from refdesk.reader.prompt import Reading
from refdesk.reader.qa import QA, Answer, AnswerOptions, Done, Event, Token

COUNTS = (5, 10, 20, 30, 40)
PASSAGE_TOKENS = 200
REPEATS = 5
QUESTIONS = (
    "Which port does the service listen on by default?",
    "What is the default chunk size of a collection?",
    "How is an API key made?",
    "Which file formats are known?",
    "What does the last line of an answer say?",
    "Where do vectors live with PostgreSQL?",
    "How is an interrupted run gone on with?",
    "What happens to a damaged index file?",
)


def main(data: Path, counts: tuple[int, ...] = COUNTS) -> None:
    """Print the tables."""
    model = load("bfloat16")
    passages = passages_of(model, data, max(counts))
    with tempfile.TemporaryDirectory() as folder:
        kept = _prepared(model, passages, Path(folder))
        print(f"\n{PASSAGE_TOKENS} tokens a passage, medians of {REPEATS}, bfloat16, 32 new tokens at most\n")
        print("| passages | reading | first word, s | whole answer, s | sooner than together (first / whole) |")
        print("|---|---|---|---|---|")
        for count in counts:
            _times(model, passages[:count], kept)
    _shared(model, passages[:20])


class Kept:
    """The runs of one folder."""

    def __init__(self, folder: Path, model: ReaderModel) -> None:
        self._folder = folder
        self._model = model

    def find(self, key: RunKey) -> Entries | None:
        """See `KeptRuns`."""
        file = self._folder / run_file_name(key, self._model.fingerprint, self._model.dtype)
        return read_run(file, len(key.tokens), cache_shape(self._model)) if file.exists() else None


def _prepared(model: ReaderModel, passages: list[Passage], folder: Path) -> Kept:
    """All of them, and what that took."""
    note("preparing")
    runs = PassageRuns.of(passages, model)
    started = time.perf_counter()
    with Engine(model, memory_bytes=2**31) as engine:
        runs.prepare(engine.submit, folder)
    seconds = time.perf_counter() - started
    size = f"{runs.tokens} tokens, {runs.bytes / 2**20:.0f} MiB"
    print(f"\nPreparing {len(passages)} passages of {size}: {seconds:.1f} s")
    return Kept(folder, model)


def _times(model: ReaderModel, passages: list[Passage], kept: Kept) -> None:
    note(f"{len(passages)} passages")
    names = ("together", "apart, cold", "apart, loaded from disk", "apart, warm")
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for repeat in range(REPEATS):
        question, warming = QUESTIONS[repeat], QUESTIONS[repeat + 1]
        with Engine(model, memory_bytes=2**31) as engine:
            rows["together"].append(_ask(model, engine, passages, question, "together")[:2])
        with Engine(model, memory_bytes=2**31) as engine:
            rows["apart, cold"].append(_ask(model, engine, passages, question, "apart")[:2])
            rows["apart, warm"].append(_ask(model, engine, passages, warming, "apart")[:2])
        with Engine(model, memory_bytes=2**31, kept=kept) as engine:
            first, whole, answer = _ask(model, engine, passages, question, "apart")
            assert answer.usage.run_loads == len(passages), answer.usage
            rows["apart, loaded from disk"].append((first, whole))
    base = [statistics.median(column) for column in zip(*rows["together"], strict=True)]
    for name, times in rows.items():
        first, whole = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"| {len(passages)} | {name} | {first:.3f} | {whole:.3f}"
            f" | {base[0] / first:.1f} / {base[1] / whole:.1f} |",
            flush=True,
        )


def _ask(
    model: ReaderModel, engine: Engine, passages: list[Passage], question: str, reading: Reading
) -> tuple[float, float, Answer]:
    """Seconds to the first piece of text and to the end."""
    qa = QA(lambda question, k, documents: passages, model, engine)
    started = time.perf_counter()
    first = 0.0
    for event in qa.stream(question, AnswerOptions(k=100, max_new_tokens=32, reading=reading)):
        if isinstance(event, Token) and not first:
            first = time.perf_counter() - started
        elif isinstance(event, Done):
            answer = event.answer
    return first, time.perf_counter() - started, answer


def _shared(model: ReaderModel, passages: list[Passage]) -> None:
    """Eight questions at once over the same passages: what all of them hold."""
    note("eight questions over the same passages")
    size = block_bytes(cache_shape(model))
    print(f"\n8 questions at once over the same {len(passages)} passages\n")
    print("| reading | blocks at the peak | MiB | what one question holds, MiB | hits, misses of the 8 |")
    print("|---|---|---|---|---|")
    readings: tuple[Reading, ...] = ("together", "apart")
    for reading in readings:
        with Engine(model, memory_bytes=2**31) as engine:
            qa = QA(lambda question, k, documents: passages, model, engine)
            options = AnswerOptions(k=100, max_new_tokens=32, reading=reading, stop=())
            streams = [qa.stream(question, options) for question in QUESTIONS]
            peak, answers = _drain(engine, streams)
        one = max(answer.usage.memory.peak_bytes for answer in answers)
        hits, misses = (sum(getattr(a.usage, name) for a in answers) for name in ("run_hits", "run_misses"))
        print(
            f"| {reading} | {peak // size} | {peak / 2**20:.1f} | {one / 2**20:.1f} | {hits}, {misses} |",
            flush=True,
        )


def _drain(engine: Engine, streams: list[Iterator[Event]]) -> tuple[int, list[Answer]]:
    """The most bytes in use at any time, and the answers."""
    peak = 0
    with ThreadPoolExecutor(len(streams)) as pool:
        ending = [pool.submit(_answer, stream) for stream in streams]
        while not all(one.done() for one in ending):
            peak = max(peak, engine.memory_used)
            time.sleep(0.002)
        return peak, [one.result() for one in ending]


def _answer(stream: Iterator[Event]) -> Answer:
    return next(event.answer for event in stream if isinstance(event, Done))


def passages_of(model: ReaderModel, data: Path, count: int) -> list[Passage]:
    """Stretches of the manual and of the data's text."""
    cut = stretches(model, texts(data), PASSAGE_TOKENS, count)
    words = [model.tokenizer.decode(ids) for ids in cut]
    return [Passage(f"d{number}", "The manual", text, 0, len(text), 1.0) for number, text in enumerate(words)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])) or COUNTS)
