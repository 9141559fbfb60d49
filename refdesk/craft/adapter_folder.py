"""A trained adapter as a folder: what peft reads, and the card that says what it was made of."""

import shutil
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from refdesk.craft.card import write_card
from refdesk.craft.training import Outcome

CARD = "card.json"


def save_adapter(folder: Path, outcome: Outcome, card: Mapping[str, Any]) -> None:
    """Write the adapter in bfloat16, there whole or not at all; one that is there already is replaced."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        config = copy(outcome.config)
        config.base_model_name_or_path = None  # a path of this machine; the card says which model it is
        config.save_pretrained(str(part))
        state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in outcome.state.items()}
        save_file(state, part / "adapter_model.safetensors", metadata={"format": "pt"})
        write_card(part / CARD, card)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def result(outcome: Outcome) -> dict[str, Any]:
    """What the training came to, for the card."""
    losses = dict(outcome.curve)
    return {
        "loss_before": outcome.curve[0][1],
        "loss": losses[outcome.best_step],
        "best_step": outcome.best_step,
        "steps": outcome.steps,
        "exercises": outcome.exercises,
        "tokens": outcome.tokens,
        "seconds": round(outcome.seconds, 1),
        "peak_gpu_bytes": outcome.peak_bytes,
        "curve": [[step, round(loss["all"], 4)] for step, loss in outcome.curve],
    }
