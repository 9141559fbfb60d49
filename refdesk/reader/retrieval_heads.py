"""Retrieval heads: the few that look from a question to what answers it, wherever it stands.

As of 2506.09944 (arXiv; QRHead): chosen once for a model, by where questions look whose answers' places are known
(`craft/retrieval_choice.py`). All other heads look at much else, and drown them.
"""

import json
from collections.abc import Collection
from pathlib import Path

from refdesk.reader.errors import HeadsMismatch, HeadsNotFound
from refdesk.reader.forward import cache_shape
from refdesk.reader.model import ReaderModel

Heads = tuple[tuple[int, int], ...]
"""(layer, query head) of each, the best first."""


def load_retrieval_heads(card: Path, model: ReaderModel) -> Heads:
    """Those that a card names for `model`.

    Raises:
        HeadsNotFound: it cannot be read, or names none.
        HeadsMismatch: they are another model's.
    """
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
        heads = tuple((int(layer), int(head)) for layer, head in found["heads"])
        fingerprint = found["base_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadsNotFound(f"{card} names no retrieval heads: {type(error).__name__} {error}") from error
    if fingerprint != model.fingerprint:
        raise HeadsMismatch(f"{card} is of the model {fingerprint}; expected {model.fingerprint} ({model.name})")
    layers, count = cache_shape(model).layers, query_heads(model)
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < count):
            raise HeadsMismatch(f"{card} names head {head} of layer {layer}; {model.name} has {count} of {layers}")
    if not heads:
        raise HeadsNotFound(f"{card} names no retrieval heads")
    return heads


def query_heads(model: ReaderModel) -> int:
    """Of a layer."""
    count: int = model.model.config.get_text_config().num_attention_heads
    return count


def in_layers(heads: Heads | None, layers: Collection[int]) -> Heads | None:
    """Those of some layers; None where there are none there."""
    return tuple(one for one in heads or () if one[0] in layers) or None
