"""Whole documents by retrieval attention: what they cost over their length, and how well they are answered over.

`python -m bench.documents PATH [NAME... | TOKENS...]`: names are those of `SETS`; numbers are lengths of a text
with five needles, read into `.bench/memories` and asked about from there. Without any, all of both. Scores are
kept in `.bench/evaluation`, as those of `bench.evaluation`.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

from bench.evaluation import evaluate
from bench.kv_memory import MODELS, head, note, row
from bench.long import NEEDLES, document, nlls, reader_and_novel
from bench.passkeys import MEMORIES, READ, Reader, Stretches
from refdesk.app.retrieval_heads import find_retrieval_heads
from refdesk.eval.plan import RunSettings
from refdesk.memory.document_memory import DocumentMemory
from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.engine import Engine
from refdesk.reader.prompt import AskedReading
from refdesk.retriever.embedder import Embedder

TOKENS = (4_000, 16_000, 32_000, 131_000, 524_000)
ATTENDED = 512

# Whole texts; what is cut, attended to or held has about as many tokens as three chunks.
_SQUAD = RunSettings("squad", "full", {"context": "article"}, part="validation", limit=40, budget=ATTENDED, k=3)
_OTHER = replace(_SQUAD, task_options={}, limit=5)


def compared(run: RunSettings, reading: AskedReading = "together") -> list[RunSettings]:
    """Ways to answer over the same texts. Together with the question, what a policy thins is read again for every
    question; apart, once for all that are asked of it."""
    thinned = [{"policy": policy, "budget": ATTENDED} for policy in ("locret", "infinipot")]
    few = None if run.limit is None else min(run.limit, max(5, run.limit // 4))
    return [
        *(replace(run, pipeline=name) for name in ("closed_book", "truncation", "top_k", "document", "attended")),
        *(replace(run, pipeline=f"document_{policy}") for policy in ("locret", "infinipot")),
        *(replace(run, pipeline="full", reading=reading, memory=memory, limit=few) for memory in thinned),
    ]


SETS = {
    "squad": compared(_SQUAD),
    "fairytaleqa": compared(replace(_OTHER, task="fairytaleqa", limit=12)),
    "squality": compared(replace(_OTHER, task="squality", part="all")),
    "qmsum": compared(replace(_OTHER, task="qmsum")),
    # Of each text five keys are asked for, at the depths 0.1, 0.3, 0.5, 0.7 and 0.9.
    **{
        f"keys{times}": compared(
            replace(
                _OTHER,
                task="kv",
                task_options={"keys": 110 * times, "questions": 5, "texts": 1 if times > 4 else 2},
                part="all",
                limit=None,
            ),
            reading="apart",
        )
        for times in (2, 4, 16, 64)
    },
    # More questions for the quick ways.
    "summaries": [
        replace(_OTHER, task=task, part=part, pipeline=name, limit=15)
        for task, part in (("squality", "all"), ("qmsum", "validation"))
        for name in ("truncation", "top_k", "document")
    ],
    # The filings that a question is about.
    "sec10q": [
        replace(_OTHER, task="sec10q", part="all", pipeline=name)
        for name in ("closed_book", "truncation", "top_k_gold", "document_gold")
    ],
}


def main(data: Path, names: tuple[str, ...], lengths: tuple[int, ...]) -> None:
    """Print what was asked for."""
    if unknown := [name for name in names if name not in SETS]:
        raise SystemExit(f"unknown set {unknown[0]}; known: {', '.join(SETS)}")
    if lengths:
        _needles(data, lengths)
    if names:
        evaluate(data, [run for name in names for run in SETS[name]])


def _needles(data: Path, lengths: tuple[int, ...]) -> None:
    model, adapter, novel = reader_and_novel(data)
    with Engine(model) as engine:
        reader = Reader(engine, model, adapter, find_retrieval_heads(MODELS, model), Embedder())
        floor = [reader.attended(_question(city), None, NEEDLES[city][0]) for city in NEEDLES]
        print(f"bfloat16, entries {RecallRequest.entries}; closed book nll {nlls(floor)}\n")
        head(
            *("tokens", "times the window", "seconds to read", "tokens/s", "MiB held", "ms to open"),
            *("looked at", "first question: seconds to its answer's first token", "later ones (median)"),
            "sooner than reading",
            *("ms a generated token", "found of 5", "nll at depth 0.1, 0.3, 0.5, 0.7, 0.9"),
            "its stretch among the best one and three by similarity alone, by attention alone, by both, of 5",
            *("seconds to find", "said of the best three by both", "nll"),
        )
        for count in lengths:
            note(f"{count} tokens")
            _one(reader, document(model, novel, count))


def _one(reader: Reader, tokens: tuple[int, ...]) -> None:
    folder = MEMORIES / str(len(tokens))
    reading = reader.remembered(tokens, folder)
    started = time.perf_counter()
    memory = DocumentMemory.load(folder)
    opened = time.perf_counter() - started
    stretches = reader.stretches(tokens)
    for exact in (True, False) if memory.plan.indexed else (True,):
        recall = RecallRequest((memory,), exact=exact)
        answers = [reader.attended(_question(city), recall, NEEDLES[city][0]) for city in NEEDLES]
        later = median(one.prefill_s for one in answers[1:])
        row(
            len(tokens),
            f"{len(tokens) / reader.model.window:.1f}",
            f"{reading:.1f}",
            f"{len(tokens) / reading:.0f}",
            f"{sum(file.stat().st_size for file in folder.iterdir()) / 2**20:.0f}",
            f"{1000 * opened:.1f}",
            "all keys" if exact else "index",
            f"{answers[0].prefill_s:.2f}",
            f"{later:.2f}",
            f"{reading / later:.0f}",
            f"{1000 * median(one.decode_s / one.completion_tokens for one in answers):.0f}",
            sum(NEEDLES[city][0] in one.text for city, one in zip(NEEDLES, answers, strict=True)),
            nlls(answers),
            *_found(reader, memory, tokens, stretches, exact),
        )


def _found(
    reader: Reader, memory: DocumentMemory, tokens: tuple[int, ...], stretches: Stretches, exact: bool
) -> Iterator[str]:
    """What comes of reading the best stretches for each needle, as `context: document` does."""
    best = dict.fromkeys(product(("similarity", "attention", "both"), READ), 0)
    seconds, read = [], []
    for city, (passkey, _) in NEEDLES.items():
        started = time.perf_counter()
        found = reader.found(_question(city), memory, tokens, stretches, exact)
        seconds.append(time.perf_counter() - started)
        for by, count in best:
            best[by, count] += any(f"The passkey of {city} is {passkey}" in one.text for one in found[by][:count])
        read.append(reader.read(_question(city), found["both"], passkey))
    yield ", ".join(map(str, best.values()))
    yield f"{median(seconds):.2f}"
    yield str(sum(NEEDLES[city][0] in one.text for city, one in zip(NEEDLES, read, strict=True)))
    yield ", ".join(f"{one.reference_nll:.2f}" for one in read)


def _question(city: str) -> str:
    return f"What is the passkey of {city}?"


if __name__ == "__main__":
    asked = sys.argv[2:]
    main(
        Path(sys.argv[1]),
        tuple(name for name in asked if not name.isdigit()) or (() if asked else tuple(SETS)),
        tuple(int(count) for count in asked if count.isdigit()) or (() if asked else TOKENS),
    )
