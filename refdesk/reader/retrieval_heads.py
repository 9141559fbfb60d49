"""Retrieval heads: the few that look from a question to what answers it, wherever it stands.

As of 2506.09944 (arXiv; QRHead): chosen once for a model, by where questions look whose answers' places are known
(`craft/retrieval_choice.py`). All other heads look at much else, and drown them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from refdesk.reader.errors import HeadsMismatch, HeadsNotFound
from refdesk.reader.forward import cache_shape, query_heads
from refdesk.reader.model import ReaderModel

Heads = tuple[tuple[int, int], ...]
"""(layer, query head) of each, the best first."""


@dataclass(frozen=True)
class _Card:
    """What must be in one; what they were chosen by may stand there, too."""

    base_fingerprint: str
    heads: Heads


def load_retrieval_heads(path: Path, model: ReaderModel) -> Heads:
    """Those that a card names for `model`.

    Raises:
        HeadsNotFound: it cannot be read, names none, or one twice.
        HeadsMismatch: they are another model's.
    """
    try:
        card = msgspec.json.decode(path.read_bytes(), type=_Card)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise HeadsNotFound(f"{path} names no retrieval heads: {error}") from error
    if card.base_fingerprint != model.fingerprint:
        raise HeadsMismatch(
            f"{path} is of the model {card.base_fingerprint}; expected {model.fingerprint} ({model.name})"
        )
    if not card.heads or len(set(card.heads)) < len(card.heads):
        raise HeadsNotFound(f"{path} names the heads {list(card.heads)}; expected one at least, and none twice")
    layers, count = cache_shape(model).layers, query_heads(model)
    for layer, head in card.heads:
        if not (0 <= layer < layers and 0 <= head < count):
            raise HeadsMismatch(
                f"{path} names head {head} of layer {layer}; expected heads 0 to {count - 1} of layers 0 to"
                f" {layers - 1}, which {model.name} has"
            )
    return card.heads


def in_layers(heads: Heads | None, layers: Collection[int]) -> Heads | None:
    """Those of some layers; None where there are none there."""
    return tuple(one for one in heads or () if one[0] in layers) or None
