"""What heads learned: the shipped ones beside those that training begins with, at random.

`python -m bench.random_heads PATH [QUESTIONS]`. Heads of each seed are put where the desk of an evaluation finds
its own, which come before shipped ones; scores are kept in `.bench/random_heads`.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import sys
from dataclasses import asdict, replace
from pathlib import Path

from bench.evaluation import FOLDER, evaluate
from bench.kv_memory import MODELS, load
from bench.memory_quality import NQ, QUESTIONS
from refdesk.app.adapters import shipped_adapter
from refdesk.app.heads import find_heads
from refdesk.craft.course import Learned
from refdesk.craft.heads_folder import save_heads
from refdesk.craft.heads_training import LearningHeads
from refdesk.craft.recipe import HeadsRecipe
from refdesk.reader.adapter import load_adapter

SEEDS = (0, 1)
RATE = 8


def main(data: Path, questions: int) -> None:
    """Print the tables of the shipped heads and of those of each seed."""
    model = load("bfloat16")
    shipped = shipped_adapter()
    adapter = "" if shipped is None else load_adapter(shipped, model, "craft").fingerprint
    found = find_heads(MODELS, model.fingerprint, adapter)
    if found is None:
        raise SystemExit("no heads are shipped for the default model with its adapter; `refdesk heads train`")
    folders = {"shipped": FOLDER}
    for seed in SEEDS:
        recipe = HeadsRecipe(seed=seed)
        begun = Learned(LearningHeads(model, recipe).weights, (), 0, 0, 0, 0, 0.0, 0)
        folder = FOLDER.with_name("random_heads") / str(seed)
        save_heads(folder / "heads" / found.name, begun, found.card | {"recipe": asdict(recipe), "result": {}})
        folders[f"random, seed {seed}"] = folder
    asked = [
        replace(NQ, limit=questions, memory={"policy": policy, "rate": RATE}) for policy in ("locret", "locret_q")
    ]
    for name, folder in folders.items():
        print(f"\n## Heads: {name}")
        evaluate(data, asked, folder=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS)
