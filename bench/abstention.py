"""When to say that it cannot be found: the model's own choice against thresholds of its probability.

`python -m bench.abstention PATH [QUESTIONS [NAME...]]`: names are those of the rows of `bench.craft`. Scores are
kept in `.bench/evaluation`, as those of `bench.evaluation`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from bench.craft import QUESTIONS, rows
from bench.evaluation import evaluate

ROWS = ("squad2", "squad", "nq_gold", "nq_4")
THRESHOLDS = (None, 0.1, 0.3, 0.5, 0.7, 1.0)


def main(data: Path, questions: int = QUESTIONS, names: tuple[str, ...] = ROWS) -> None:
    """Do what is not done yet, and print the tables."""
    known = rows(questions)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"unknown row {unknown[0]}; known: {', '.join(known)}")
    asked = [replace(known[name], adapter="craft") for name in names]
    evaluate(data, [replace(run, abstain=threshold) for run in asked for threshold in THRESHOLDS])


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS,
        tuple(sys.argv[3:]) or ROWS,
    )
