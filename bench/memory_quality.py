"""What evicting costs in quality, and reading passages apart: the default model on benchmarks.

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


def asked() -> list[RunSettings]:
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


def _after_reading(rate: int) -> dict[str, Any]:
    """Compressed once, when the prompt has been read."""
    return {"policy": "kv_compress", "rate": rate, "continual": False}


def main(data: Path) -> None:
    """Do what is not done yet, and print the tables."""
    evaluate(data, asked())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
