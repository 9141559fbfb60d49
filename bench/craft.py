"""What training is worth: the default model as it is and with its adapter, on questions that no training saw.

`python -m bench.craft PATH [QUESTIONS [NAME...]]`: names are those of `rows`, all of them if none is named, and of
adapters that `refdesk adapters` lists for the data folder `.bench/evaluation`; `none` is the model as it is.
Scores are kept there, as those of `bench.evaluation`. Adapters of `bench.tuning` come there by
`refdesk --data .bench/evaluation adapters add NAME FOLDER`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from bench.evaluation import evaluate
from refdesk.eval.plan import RunSettings

QUESTIONS = 300
ADAPTERS = ("none", "craft")
QUOTED = ("em", "f1", "nll", "cited_gold", "gold_cited", "format")


def rows(questions: int) -> dict[str, RunSettings]:
    """What is asked, by name: the same questions differ in what is read and in how."""
    nq = RunSettings("nq-oracle", part="validation", limit=questions, max_new_tokens=32)
    wrong = replace(nq, pipeline="oracle_k")  # the gold passage among k
    official = RunSettings("nq", "full", max_new_tokens=32)
    squad = RunSettings("squad", part="validation", limit=questions, max_new_tokens=32)
    # What the service does, at the number of passages that it reads: is more than the best one worse?
    article = replace(squad, task_options={"context": "article"}, pipeline="top_k")
    pubmed = RunSettings("pubmedqa", part="validation", limit=questions)
    hotpot = RunSettings("hotpotqa", "full", part="validation", max_new_tokens=32)
    sec = RunSettings("sec10q", "top_k", limit=questions, k=5)
    return {
        "nq_closed_book": replace(nq, pipeline="closed_book"),
        "nq_gold": replace(nq, pipeline="oracle"),
        **{f"nq_{k - 1}": replace(wrong, k=k) for k in (5, 10, 20)},
        **{f"nq_{k - 1}_apart": replace(wrong, k=k, reading="apart") for k in (5, 20)},
        "nq_4_quote": replace(wrong, k=5, form="quote", max_new_tokens=160, metrics=QUOTED),
        **{
            f"nq_official_{count}": replace(official, task_options={"documents": count, "gold_at": count // 2})
            for count in (5, 10, 20)
        },
        "squad_closed_book": replace(squad, pipeline="closed_book"),
        "squad": replace(squad, pipeline="oracle"),
        "squad_4": replace(squad, pipeline="oracle_k", k=5),
        "squad2": replace(squad, task="squad-v2", pipeline="oracle"),
        **{f"squad_article_{k}": replace(article, k=k) for k in (1, 3, 5)},
        "pubmedqa_closed_book": replace(pubmed, pipeline="closed_book"),
        "pubmedqa": replace(pubmed, pipeline="oracle"),
        "hotpotqa": hotpot,
        "hotpotqa_closed_book": replace(hotpot, pipeline="closed_book"),
        "sec10q": sec,
        "sec10q_apart": replace(sec, reading="apart"),
        "qmsum": RunSettings("qmsum", "top_k", limit=questions, k=5),
        "clapnq": RunSettings("clapnq", "oracle", part="validation"),
    }


def main(data: Path, questions: int = QUESTIONS, names: tuple[str, ...] = ()) -> None:
    """Do what is not done yet, and print the tables."""
    known = rows(questions)
    asked = [name for name in names if name in known] or list(known)
    adapters = [name for name in names if name not in known] or ADAPTERS
    evaluate(data, [replace(known[name], adapter=adapter) for name in asked for adapter in adapters])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS, tuple(sys.argv[3:]))
