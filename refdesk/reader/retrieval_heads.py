"""Retrieval heads: the few that look from a question to what answers it, wherever it stands.

As of 2506.09944 (arXiv; QRHead): chosen once for a model, by where the questions of a task look whose answers'
places are known. All other heads look at much else, and drown them. `python -m bench.retrieval_heads` chooses.
"""

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path

from refdesk.reader.model import ReaderModel

_CHOSEN = Path(__file__).parent.parent / "weights" / "retrieval_heads.json"


def retrieval_heads(model: ReaderModel, layers: Collection[int]) -> tuple[tuple[int, int], ...] | None:
    """(layer, query head) of those known for `model` in `layers`; None where none are known there."""
    chosen = _chosen().get(model.fingerprint, [])
    return tuple((layer, head) for layer, head in chosen if layer in layers) or None


@cache
def _chosen() -> dict[str, list[tuple[int, int]]]:
    """By the fingerprint of a model."""
    known: dict[str, list[tuple[int, int]]] = json.loads(_CHOSEN.read_text(encoding="utf-8"))
    return known
