"""Trained retaining heads as a folder: their weights, and the card that says whose they are and made of what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from refdesk.craft.card import CARD, write_card
from refdesk.craft.course import Learned
from refdesk.craft.whole_folder import whole_folder


def save_heads(folder: Path, learned: Learned, card: Mapping[str, Any]) -> None:
    """Write the heads in bfloat16, there whole or not at all; those that are there already are replaced."""
    with whole_folder(folder) as part:
        state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in learned.state.items()}
        save_file(state, part / "heads.safetensors", metadata={"format": "pt"})
        write_card(part / CARD, card)
