"""What evicting costs in quality, and reading passages apart: the default model on benchmarks.

`python -m bench.memory_quality PATH [SET...]`: sets are `base` (the model as it comes), `craft` (with its adapter
and heads, every policy at the same number of entries) and `windows` (needles in texts of one to sixteen windows).
Scores are kept in `.bench/evaluation`, as those of `bench.evaluation`.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.evaluation import evaluate
from refdesk.eval.plan import RunSettings

RATES = (2, 4, 8, 16, 32, 64)
RIVALS = ("snapkv", "streaming", "random")
# Those that see the question while they thin, and those that do not.
AWARE = ("locret_q", "infinipot_q", "kv_compress", "snapkv")
BLIND = ("locret", "infinipot", "streaming", "random")


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


def craft() -> list[RunSettings]:
    """Every policy, on questions over long texts."""
    nq = RunSettings(
        "nq", "full", {"documents": 10, "gold_at": 4}, limit=50, reading="together", max_new_tokens=32
    )
    nq20 = replace(nq, task_options={"documents": 20, "gold_at": 9})
    squad = RunSettings("squad", "full", {"context": "article"}, limit=20, reading="together", max_new_tokens=32)
    qmsum = RunSettings("qmsum", "truncation", limit=20, budget=4096, reading="together")
    tales = RunSettings("fairytaleqa", "full", part="validation", limit=30, reading="together")
    keys = RunSettings("kv", "full", limit=20, reading="together")
    runs = []
    for one, rates in (
        (nq, (4, 8, 20)),
        (nq20, (8, 20)),
        (squad, (8,)),
        (qmsum, (8,)),
        (tales, (8,)),
        (keys, (8,)),
    ):
        runs += [replace(one, pipeline="closed_book"), one]
        runs += [replace(one, memory={"policy": name, "rate": rate}) for rate in rates for name in AWARE + BLIND]
    # As many tokens of the text itself, which has about 1,500.
    return [*runs, *(replace(nq, pipeline="truncation", budget=1500 // rate) for rate in (4, 8, 20))]


def windows() -> list[RunSettings]:
    """Needles in texts of about 1, 2, 4, 8 and 16 windows of 8,192 tokens, a quarter of one held."""
    needles = [
        RunSettings("needle", "full", {"words": 6000 * times, "count": 10}, reading="together")
        for times in (1, 2, 4, 8, 16)
    ]
    names = ("locret_q", "infinipot_q", "locret", "infinipot", "streaming")
    return [replace(one, memory={"policy": name, "budget": 2048}) for one in needles for name in names]


SETS = {"base": base, "craft": craft, "windows": windows}


def _after_reading(rate: int) -> dict[str, Any]:
    """Compressed once, when the prompt has been read."""
    return {"policy": "kv_compress", "rate": rate, "continual": False}


def main(data: Path, names: tuple[str, ...] = ("base",)) -> None:
    """Do what is not done yet, and print the tables."""
    evaluate(data, [run for name in names for run in SETS[name]()])


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or ("base",))
