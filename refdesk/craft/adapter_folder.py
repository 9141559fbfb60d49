"""A trained adapter as a folder: what peft reads, and the card that says what it was made of."""

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from refdesk.craft.card import CARD, write_card
from refdesk.craft.training import Outcome
from refdesk.craft.whole_folder import whole_folder


def save_adapter(folder: Path, outcome: Outcome, card: Mapping[str, Any]) -> None:
    """Write the adapter in bfloat16, there whole or not at all; one that is there already is replaced."""
    with whole_folder(folder) as part:
        config = copy(outcome.config)
        config.base_model_name_or_path = None  # a path of this machine; the card says which model it is
        config.save_pretrained(str(part))
        state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in outcome.state.items()}
        save_file(state, part / "adapter_model.safetensors", metadata={"format": "pt"})
        write_card(part / CARD, card)
