"""Which heads look from a question to what answers it, and how well what they look at is found.

`python -m bench.retrieval_heads PATH [ARTICLES [QUESTIONS]]`: whole articles of SQuAD's training part are
remembered, and questions attend to them. Of each head of the layers that retrieve: where it ranks the stretch of
200 tokens with the answer. The best of one half of the articles are measured on the other; those of all are told
in the end: the shipped ones were chosen so.
"""

import refdesk  # noqa: F401, I001 (first: it says how OpenMP waits, and importing torch reads that)

import sys
from collections import defaultdict
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from bench.kv_memory import head, note, row
from bench.long import reader_and_novel
from refdesk.craft.retrieval_choice import Look, all_heads, best_heads, first_share, worth
from refdesk.eval.example import Document, Example
from refdesk.eval.plan import RunSettings, make_plan
from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.engine import Engine
from refdesk.reader.remember import RememberOptions, remember
from refdesk.reader.retrieval_heads import Heads
from refdesk.reader.whole_documents import document_front, encode_document, look, z_scores
from refdesk.retriever.chunk import chunk_text
from refdesk.retriever.embedder import Embedder
from refdesk.retriever.store import fuse

ARTICLES, QUESTIONS, CHOSEN = 12, 8, 4
LONGEST = 45_000  # characters
STRETCH = 200
BEST = (1, 3, 5)

Numbers = NDArray[np.floating]


def main(data: Path, articles: int = ARTICLES, questions: int = QUESTIONS) -> None:
    """Print how often the answer's stretch is among the best, and which heads are the best."""
    model, adapter, _ = reader_and_novel(data)
    embedder, looks, similar = Embedder(), [], []
    with Engine(model) as engine:
        for number, (document, examples) in enumerate(drawn(data, articles, questions)):
            note(f"{document.title}, {number + 1} of {articles}")
            encoded, front = encode_document(document.title, document.text, model), document_front(model)
            memory = remember(engine.submit, model, encoded.tokens, front, RememberOptions(), adapter=adapter)
            heads = all_heads(model, memory.plan.retrieving)
            recall = RecallRequest((memory,), exact=True, heads=heads)
            stretches = chunk_text(document.text, STRETCH, 0, embedder.count_tokens)
            bounds = [np.searchsorted(encoded.starts, (one.start, one.end)) for one in stretches]
            vectors = embedder.embed([document.text[one.start : one.end] for one in stretches])
            for example in examples:
                mass = look(recall, example.question, model, adapter, engine.submit).by_head[0].numpy()
                by_head = np.stack([mass[:, first:last].mean(1) for first, last in bounds], axis=1)
                gold = tuple(
                    index
                    for index, one in enumerate(stretches)
                    if any(span.start < one.end and one.start < span.end for span in example.gold)
                )
                if gold:
                    looks.append(Look(by_head, gold, number % 2))
                    similar.append(vectors @ embedder.embed([example.question])[0])
    if len({look.half for look in looks}) < 2:
        raise SystemExit(f"{articles} articles of {questions} questions are too few to measure on one half")
    _tell(looks, similar, heads)


def drawn(data: Path, articles: int, questions: int) -> list[tuple[Document, list[Example]]]:
    """So many articles, and of each so many questions."""
    settings = RunSettings("squad", "full", {"context": "article"}, part="train", benchmarks=str(data))
    examples = list(make_plan(settings).examples)
    Random(0).shuffle(examples)
    of: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if len(example.documents[0].text) < LONGEST:
            of[example.documents[0].id].append(example)
    return [(some[0].documents[0], some[:questions]) for some in of.values() if len(some) >= questions][:articles]


def _tell(looks: list[Look], similar: list[Numbers], heads: Heads) -> None:
    halves = [[look for look in looks if look.half == half] for half in (0, 1)]
    print(f"{len(looks)} questions, {np.mean([look.by_head.shape[1] for look in looks]):.0f} stretches each\n")
    head("looked at", *(f"answer among the best {count}" for count in BEST))
    row("by similarity", *_found([(one, look.gold) for one, look in zip(similar, looks, strict=True)]))
    row("by all heads", *_found([(look.by_head.sum(0), look.gold) for look in looks]))
    for count in (1, 2, 4, 8, 16, 32):
        chosen = [best_heads(some, count) for some in halves]
        scores = [(look.by_head[chosen[1 - look.half]].sum(0), look.gold) for look in looks]
        row(f"by the best {count} of the other half", *_found(scores))
        if count == CHOSEN:
            pairs = [(one, mass, gold) for one, (mass, gold) in zip(similar, scores, strict=True)]
            both = [(z_scores(one) + z_scores(mass), gold) for one, mass, gold in pairs]
            row("by these and by similarity, as `document` does", *_found(both))
            ranked = [(_fused(one, mass), gold) for one, mass, gold in pairs]
            row("by these and by similarity, ranks fused as hybrid search does", *_found(ranked))
    best, worths = best_heads(looks, CHOSEN), worth(looks)
    print(f"\nThe best of all: {[list(heads[index]) for index in best]}")
    print(f"mean reciprocal rank {', '.join(f'{worths[index]:.2f}' for index in best)}")


def _fused(*scores: Numbers) -> Numbers:
    """Of each stretch, by its ranks alone."""
    by_place = fuse([np.argsort(-some, kind="stable").tolist() for some in scores])
    return np.asarray([by_place[place] for place in range(len(by_place))])


def _found(scored: list[tuple[Numbers, tuple[int, ...]]]) -> list[str]:
    """How often gold is among the best."""
    return [f"{first_share(scored, count):.2f}" for count in BEST]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
