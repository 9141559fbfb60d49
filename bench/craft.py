"""What training is worth: the default model as it is and with its adapter, on questions that no training saw.

`python -m bench.craft PATH [QUESTIONS [ADAPTER...]]`. Adapters are those that `refdesk adapters` lists for the
data folder `.bench/evaluation`, `none` for the model as it is. Scores are kept there, as those of
`bench.evaluation`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from bench.evaluation import evaluate
from refdesk.eval.plan import RunSettings

QUESTIONS = 300
ADAPTERS = ("none", "craft")


def asked(questions: int, adapters: tuple[str, ...]) -> list[RunSettings]:
    """Runs over the same questions, which differ in the adapter, in what is read and in how."""
    nq = RunSettings("nq-oracle", part="validation", limit=questions, max_new_tokens=32)
    official = RunSettings("nq", "full", max_new_tokens=32)
    squad = RunSettings("squad", part="validation", limit=questions, max_new_tokens=32)
    squad2 = replace(squad, task="squad-v2")
    pubmed = RunSettings("pubmedqa", part="validation", limit=questions)
    hotpot = RunSettings("hotpotqa", "full", part="validation", max_new_tokens=32)
    sec = RunSettings("sec10q", "top_k", limit=questions, k=5)
    meetings = RunSettings("qmsum", "top_k", limit=questions, k=5)
    passages = RunSettings("clapnq", "oracle", part="validation")
    runs = [
        *(replace(nq, pipeline=pipeline) for pipeline in ("closed_book", "oracle")),
        *(replace(nq, pipeline="oracle_k", k=k) for k in (5, 10, 20)),
        *(replace(nq, pipeline="oracle_k", k=k, reading="apart") for k in (5, 20)),
        replace(nq, pipeline="oracle_k", k=5, form="quote", max_new_tokens=160),
        *(replace(official, task_options={"documents": count, "gold_at": count // 2}) for count in (5, 10, 20)),
        *(replace(squad, pipeline=pipeline) for pipeline in ("closed_book", "oracle")),
        replace(squad, pipeline="oracle_k", k=5),
        replace(squad2, pipeline="oracle"),
        # What the service does, at the number of passages that it reads: is more than the best one worse?
        *(replace(squad, task_options={"context": "article"}, pipeline="top_k", k=k) for k in (1, 3, 5)),
        *(replace(pubmed, pipeline=pipeline) for pipeline in ("closed_book", "oracle")),
        hotpot,
        replace(hotpot, pipeline="closed_book"),
        *(replace(sec, reading=reading) for reading in ("together", "apart")),
        meetings,
        passages,
    ]
    return [replace(run, adapter=adapter) for run in runs for adapter in adapters]


def main(data: Path, questions: int = QUESTIONS, adapters: tuple[str, ...] = ADAPTERS) -> None:
    """Do what is not done yet, and print the tables."""
    evaluate(data, asked(questions, adapters))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS,
        tuple(sys.argv[3:]) or ADAPTERS,
    )
