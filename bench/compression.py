"""What compression is worth: the answers of the default model with its adapter, and the time they take.

`python -m bench.compression PATH [QUESTIONS [NAME...]]`: names are those of `SETS`, `times`, and `stored`: what
it would save if likelihoods without the question were known from ingestion; all of them, if none is named.
Scores are kept in `.bench/evaluation`, as those of `bench.evaluation`.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.evaluation import evaluate
from bench.kv_memory import head, load, note, row
from bench.runs import QUESTIONS as ASKED
from bench.runs import passages_of
from refdesk.app.compression import PassageCompression, engine_tools
from refdesk.compressor.compressor import Tools
from refdesk.compressor.options import compression_options
from refdesk.compressor.strategies import STRATEGIES
from refdesk.eval.plan import RunSettings
from refdesk.reader.engine import Engine
from refdesk.reader.model import ReaderModel
from refdesk.reader.passage import Passage
from refdesk.reader.qa import QA, AnswerOptions
from refdesk.reader.scoring import EngineScorer, Prior
from refdesk.reader.submission import Submit
from refdesk.reader.usage import Usage
from refdesk.retriever.embedder import Embedder

MakeTools = Callable[[Submit], Tools]

QUESTIONS = 100
RATES = (2, 4)
UNEVEN = (3, 6)  # no whole number of passages is so much, so tokens are scored and taken out
POSITIONS = (0, 4, 9, 14, 19)
GUIDED: dict[str, Any] = {"strategy": "perception", "guiding": 3}
FILLED: dict[str, Any] = {"strategy": "perception", "belief": 1}  # the paper's: as much as the budget has room for

# Of the default model's window: half, nearly all, and more than it holds (passages of 200 tokens).
COUNTS = (20, 38, 50)
REPEATS = 5
KV_MEMORY_MB = 6144  # in half of it the passages of 40 questions are read once, for all strategies that rank them
TIMED: dict[str, dict[str, Any] | None] = {
    "none": None,
    "auto": {"strategy": "auto"},
    **{name: {"strategy": name, "rate": 4} for name in STRATEGIES},
    "perception, rate 2": {"rate": 2},
    "perception, belief 1": FILLED | {"rate": 4},
    "perception, belief 1, rate 2": FILLED | {"rate": 2},
    "perception, belief 1, rate 2, not iterative": FILLED | {"rate": 2, "iterative": False},
    "the same without the question's say": FILLED | {"rate": 2, "iterative": False, "tau_o": 0, "k2": 0},
    "perception, guided": GUIDED | {"rate": 4},
}

# No adapter was trained on these rows of NQ, nor on 2Wiki; of the others, what is kept back from training.
_NQ = RunSettings("nq", "full", reading="together", max_new_tokens=32)
_HOPS = RunSettings("musique", "full", part="validation", reading="together", max_new_tokens=32)
_SEC = RunSettings("sec10q", "top_k", k=20, reading="together")


def compressed(whole: RunSettings) -> list[RunSettings]:
    """The floor, the full prompt, and every strategy at every rate; `best` takes as little at any."""
    strategies: list[dict[str, Any]] = [*({"strategy": name} for name in STRATEGIES), FILLED]
    asked = [
        strategy | {"rate": rate}
        for rate in RATES
        for strategy in strategies
        if (strategy["strategy"], rate) != ("best", RATES[0])
    ]
    floor = replace(whole, pipeline="closed_book", memory=None)
    return [floor, whole, *(replace(whole, compression=one) for one in asked)]


def positions() -> list[RunSettings]:
    """The gold document among twenty, at five positions. What ranks passages reads them in the order of rank,
    wherever they stood, so that is done for the first position alone."""
    first, *others = (replace(_NQ, task_options={"documents": 20, "gold_at": at}) for at in POSITIONS)
    unranked = [{"strategy": "perplexity", "rate": rate} for rate in RATES]
    moved = [run for one in others for run in (one, *(replace(one, compression=asked) for asked in unranked))]
    return [replace(first, pipeline="oracle"), *compressed(first), *moved]


def ablation() -> list[RunSettings]:
    """Each part of Perception Compressor taken away; without the ranking, the gold document first, in the middle
    and last."""
    parts: tuple[dict[str, Any], ...] = (
        {"belief": 1},
        {"belief": 1, "k1": 0, "k2": 0},  # the allocator
        {"belief": 1, "tau_o": 0, "k2": 0},  # the question's say in what stays
        {"belief": 1, "iterative": False},
        {"belief": 0.9},
        {"belief": 0.9, "guiding": 3},
    )
    unranked = {"belief": 1, "ranked": False}
    return [
        replace(_NQ, task_options={"documents": 20, "gold_at": at}, compression={"rate": rate, **part})
        for rate in RATES
        for at, part in (*((0, part) for part in parts), *((at, unranked) for at in (0, 9, 19)))
    ]


SETS: dict[str, Callable[[], list[RunSettings]]] = {
    "nq": positions,
    "ablation": ablation,
    "musique": lambda: compressed(_HOPS),
    "2wiki": lambda: compressed(replace(_HOPS, task="2wiki", part="all")),
    "sec10q": lambda: compressed(_SEC),
    # The beginnings and ends of meetings: whole ones take minutes, and most do not fit the window.
    "meetings": lambda: compressed(
        RunSettings("qmsum", "truncation", part="validation", reading="together", budget=4096)
    ),
}


def main(data: Path, questions: int, names: tuple[str, ...]) -> None:
    """Do what is not done yet, and print the tables."""
    known = (*SETS, "times", "stored")
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"unknown set {unknown[0]}; known: {', '.join(known)}")
    wanted = names or known
    runs = [replace(run, limit=questions) for name, make in SETS.items() if name in wanted for run in make()]
    if runs:
        evaluate(data, runs, KV_MEMORY_MB)
    if "times" in wanted:
        times(data)
    if "stored" in wanted:
        stored(data)


class Stored(EngineScorer):
    """One whose likelihoods of texts behind nothing are `known` from an earlier question, as ingestion could leave
    them."""

    def __init__(self, model: ReaderModel, submit: Submit, known: dict[tuple[int, ...], list[float]]) -> None:
        super().__init__(model, submit)
        self._known = known

    def nll(self, priors: Sequence[Prior], token_ids: tuple[int, ...]) -> list[list[float]]:
        """As EngineScorer, of which the first prior is nothing."""
        if token_ids not in self._known:
            found = super().nll(priors, token_ids)
            self._known[token_ids] = found[0]
            return found
        return [self._known[token_ids], *(super().nll(priors[1:], token_ids) if priors[1:] else ())]


def stored(data: Path) -> None:
    """Print how long a question takes that was asked before, with and without the likelihoods it left."""
    model, embedder = load("bfloat16"), Embedder()
    print(f"\nSeconds of a question over passages that are read, medians of {REPEATS}, bfloat16\n")
    head(
        "passages",
        "rate",
        "scored",
        "in all, s",
        "of it compression",
        "stored",
        "of it compression",
        "share saved",
    )
    for rate in UNEVEN:
        asked = FILLED | {"rate": rate, "iterative": False}
        passages = passages_of(model, data, COUNTS[0])
        seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        with Engine(model, memory_bytes=2**31) as engine:
            for question in ASKED[:REPEATS]:
                note(f"rate {rate}, {question}")
                known: dict[tuple[int, ...], list[float]] = {}
                tools = _storing(model, embedder, known)
                _ask(model, engine, tools, passages, question, asked)  # reads the passages, leaves likelihoods
                for keep in (False, True):
                    started = time.perf_counter()
                    usage = _ask(
                        model, engine, tools if keep else _tools(model, embedder), passages, question, asked
                    )
                    seconds[keep].append((time.perf_counter() - started, usage.seconds["compress"]))
        cells = [[statistics.median(column) for column in zip(*seconds[keep], strict=True)] for keep in seconds]
        share = f"{1 - cells[1][0] / cells[0][0]:.0%}"
        row(COUNTS[0], rate, sum(map(len, known)), *(f"{one:.2f}" for side in cells for one in side), share)


def _tools(model: ReaderModel, embedder: Embedder) -> MakeTools:
    return engine_tools(model, lambda: embedder)


def _storing(model: ReaderModel, embedder: Embedder, known: dict[tuple[int, ...], list[float]]) -> MakeTools:
    made = _tools(model, embedder)
    return lambda submit: replace(made(submit), scorer=Stored(model, submit, known))


def times(data: Path) -> None:
    """Print how long a question takes, the first over its passages and one behind it."""
    model, embedder = load("bfloat16"), Embedder()
    print(f"\nSeconds, medians of {REPEATS}, bfloat16, without an adapter, 32 new tokens at most\n")
    head(
        *("passages", "asked", "done", "prompt tokens"),
        *("cold, s", "of it compression", "warm, s", "of it compression", "sooner than none (cold / warm)"),
    )
    for count in COUNTS:
        _times(model, embedder, passages_of(model, data, count))


def _times(model: ReaderModel, embedder: Embedder, passages: list[Passage]) -> None:
    """By turns, so that what else the machine does falls on all of them."""
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in TIMED}
    done: dict[str, tuple[str, int]] = {}
    for repeat in range(REPEATS):
        for name, asked in TIMED.items():
            note(f"{len(passages)} passages, {name}")
            with Engine(model, memory_bytes=2**31) as engine:
                taken = []
                for question in ASKED[repeat : repeat + 2]:
                    started = time.perf_counter()
                    usage = _ask(model, engine, _tools(model, embedder), passages, question, asked)
                    taken += [time.perf_counter() - started, usage.seconds["compress"]]
            seconds[name].append(tuple(taken))
            done[name] = usage.compression.strategy, usage.prompt_tokens
    base = [statistics.median(column) for column in zip(*seconds["none"], strict=True)]
    for name, rows in seconds.items():
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        sooner = f"{base[0] / medians[0]:.1f} / {base[2] / medians[2]:.1f}"
        row(len(passages), name, *done[name], *(f"{median:.2f}" for median in medians), sooner)


def _ask(
    model: ReaderModel,
    engine: Engine,
    tools: MakeTools,
    passages: list[Passage],
    question: str,
    asked: dict[str, Any] | None,
) -> Usage:
    shorten = None if asked is None else PassageCompression(compression_options(asked), tools)
    qa = QA(lambda question, k, documents: passages, model, engine)
    return qa.answer(question, AnswerOptions(k=100, max_new_tokens=32, shorten=shorten)).usage


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS,
        tuple(sys.argv[3:]),
    )
