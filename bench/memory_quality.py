"""What evicting costs in quality, and reading passages apart: the default model on benchmarks.

`python -m bench.memory_quality PATH [QUESTIONS] [SET...]`: the set `base` is the model as it comes, by default;
all others are with its adapter and heads, every policy at the same number of entries. Scores are kept in
`.bench/evaluation`, as those of `bench.evaluation`.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.evaluation import evaluate
from refdesk.eval.plan import RunSettings

RATES = (2, 4, 8, 16, 32, 64)
RIVALS = ("snapkv", "streaming", "random")
# Those that see the question while they thin, and those that do not.
AWARE = ("locret_q", "infinipot_q", "kv_compress", "snapkv")
BLIND = ("locret", "infinipot", "streaming", "random")
# Those that give what they keep new positions, and so read texts of any length; and what they hold of such.
MOVING = ("locret_q", "infinipot_q", "locret", "infinipot")
HELD = 2048


def base() -> list[RunSettings]:
    """Runs over the same questions, which differ in memory or in reading."""
    nq = RunSettings(
        "nq",
        "full",
        {"documents": 10, "gold_at": 4},
        limit=50,
        reading="together",
        max_new_tokens=32,
        adapter="none",
    )
    nq20 = replace(nq, task_options={"documents": 20, "gold_at": 9})
    squad = RunSettings("squad", "full", {"context": "article"}, limit=20, reading="together", adapter="none")
    qmsum = RunSettings("qmsum", "truncation", limit=20, budget=4096, reading="together", adapter="none")
    sec = RunSettings("sec10q", "top_k", limit=50, k=5, reading="together", adapter="none")
    return [
        *(replace(nq, pipeline=pipeline) for pipeline in ("closed_book", "oracle", "full")),
        *(replace(nq, memory={"policy": "kv_compress", "rate": rate}) for rate in RATES),
        *(replace(nq, memory=_after_reading(rate)) for rate in (8, 64)),
        *(replace(nq, memory={"policy": rival, "rate": 8}) for rival in RIVALS),
        replace(nq, reading="apart"),
        *(replace(nq20, reading=reading) for reading in ("together", "apart")),
        *(replace(sec, reading=reading) for reading in ("together", "apart")),
        *(replace(qmsum, pipeline=pipeline) for pipeline in ("closed_book", "truncation")),
        *(replace(qmsum, memory={"policy": "kv_compress", "rate": rate}) for rate in (2, 8, 64)),
        replace(qmsum, memory=_after_reading(8)),
        *(replace(squad, pipeline=pipeline) for pipeline in ("closed_book", "full")),
        *(replace(squad, memory={"policy": "kv_compress", "rate": rate}) for rate in (2, 8, 64)),
        replace(squad, memory=_after_reading(8)),
    ]


def policies(whole: RunSettings, rates: tuple[int, ...], tokens: int) -> list[RunSettings]:
    """The floor, everything held, and every policy; as many `tokens` of a text's beginning and end."""
    return [
        replace(whole, pipeline="closed_book"),
        whole,
        *(replace(whole, memory={"policy": name, "rate": rate}) for rate in rates for name in AWARE + BLIND),
        *(replace(whole, pipeline="truncation", budget=tokens // rate) for rate in rates),
    ]


def beyond(whole: RunSettings) -> list[RunSettings]:
    """Of texts that may be longer than the window: the floor, what moves the entries it keeps (no other fits), and
    as many tokens of the text's beginning and end."""
    return [
        replace(whole, pipeline="closed_book"),
        *(replace(whole, memory={"policy": name, "budget": HELD}) for name in MOVING),
        replace(whole, pipeline="truncation", budget=HELD),
    ]


def _needles(times: int) -> list[RunSettings]:
    """Needles in texts of about so many windows of 8,192 tokens."""
    return beyond(RunSettings("needle", "full", {"words": 6000 * times}, reading="together"))


def _keys(times: int) -> list[RunSettings]:
    """Keys and values, of which about 110 are a window."""
    return beyond(RunSettings("kv", "full", {"keys": 110 * times}, reading="together"))


# The adapter and heads that are shipped; what no training saw.
NQ = RunSettings("nq", "full", {"documents": 10, "gold_at": 4}, reading="together", max_new_tokens=32)
_ARTICLES = replace(NQ, task="squad", task_options={"context": "article"}, part="validation")
_MEETINGS = RunSettings("qmsum", "truncation", part="validation", budget=4096, reading="together")
_TALES = RunSettings("fairytaleqa", "full", part="validation", reading="together", max_new_tokens=32)
SETS: dict[str, Callable[[], list[RunSettings]]] = {
    "base": base,
    "nq10": lambda: policies(NQ, (4, 8, 20), 1500),
    "nq20": lambda: policies(replace(NQ, task_options={"documents": 20, "gold_at": 9}), (4, 8, 20), 3000),
    "articles": lambda: policies(_ARTICLES, (4, 8, 20), 6400),
    "meetings": lambda: policies(_MEETINGS, (4, 8, 20), 4096),
    "tales": lambda: policies(_TALES, (4, 8, 20), 3000),
    "keys": lambda: policies(RunSettings("kv", "full", reading="together"), (4, 8, 20), 4500),
    "stabilizers": lambda: [
        replace(NQ, memory={"policy": "locret", "rate": 8, "stabilizers": percent}) for percent in (0, 10, 25, 50)
    ],
    **{f"needle{times}": partial(_needles, times) for times in (1, 2, 4, 8, 16)},
    **{f"keys{times}": partial(_keys, times) for times in (1, 2, 4, 8, 16)},
}
QUESTIONS = 20


def _after_reading(rate: int) -> dict[str, Any]:
    """Compressed once, when the prompt has been read."""
    return {"policy": "kv_compress", "rate": rate, "continual": False}


def main(data: Path, questions: int, names: tuple[str, ...]) -> None:
    """Do what is not done yet, and print the tables."""
    if unknown := [name for name in names if name not in SETS]:
        raise SystemExit(f"unknown set {unknown[0]}; known: {', '.join(SETS)}")
    runs = [run for name in names for run in SETS[name]()]
    evaluate(data, [run if run.limit is not None else replace(run, limit=questions) for run in runs])


if __name__ == "__main__":
    asked = sys.argv[2:]
    main(
        Path(sys.argv[1]),
        next((int(one) for one in asked if one.isdigit()), QUESTIONS),
        tuple(one for one in asked if not one.isdigit()) or ("base",),
    )
