"""What was trained for the default model does what it was trained for, on a text that no training saw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refdesk.app.adapters import shipped_adapter
from refdesk.app.heads import find_heads
from refdesk.app.retrieval_heads import find_retrieval_heads
from refdesk.memory.options import memory_options
from refdesk.memory.retaining_heads import RetainingHeads
from refdesk.memory.unlimiformer import RecallRequest
from refdesk.reader.adapter import Adapter, load_adapter
from refdesk.reader.engine import Engine
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.heads import load_heads
from refdesk.reader.model import ReaderModel
from refdesk.reader.prompt import encode_answer, encode_segments
from refdesk.reader.remember import RememberOptions, remember
from refdesk.reader.whole_documents import document_front, most_attended
from tests.reader.conftest import default_model

__all__ = ["default_model"]

Shipped = tuple[ReaderModel, Adapter, RetainingHeads]
PASSKEY = "48213"
QUESTION = "What is the passkey of Lisbon?"


@pytest.fixture(scope="module")
def shipped(default_model: tuple[ReaderModel, Path, list[str]]) -> Shipped:
    """The default model with its adapter and heads."""
    model, folder, _ = default_model
    found = shipped_adapter()
    assert found is not None
    adapter = load_adapter(found, model, "craft")
    entry = find_heads(folder, model.fingerprint, adapter.fingerprint)
    assert entry is not None
    return model, adapter, load_heads(entry.folder, model, adapter)


def needle_in_the_manual(model: ReaderModel, tokens: int) -> tuple[int, ...]:
    """So many tokens of this project's manual, and a passkey a third of the way in."""
    manual = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    ids = model.literal_tokenizer.encode(manual, add_special_tokens=False).ids[:tokens]
    key = model.literal_tokenizer.encode(f" The passkey of Lisbon is {PASSKEY}. ", add_special_tokens=False).ids
    return (*ids[: tokens // 3], *key, *ids[tokens // 3 :])


def nll_of_the_passkey(model: ReaderModel, token_ids: tuple[int, ...], **options: Any) -> float:
    """In nats per token, as the answer to `token_ids`."""
    (front,) = document_front(model)
    continuation = encode_answer(PASSKEY, model)
    request = GenerationRequest(token_ids, 1, front=(front,), continuations=(continuation,), **options)
    with Engine(model, chunk_tokens=256) as engine:
        (nll,) = engine.submit(request).result().continuation_nll
    return sum(nll) / len(nll)


def test_trained_heads_hold_what_is_asked_for_later_and_random_ones_do_not(shipped: Shipped) -> None:
    """Methods 1.5, 12: of a text six times the budget; no question is known while it is read."""
    model, adapter, trained = shipped
    text = needle_in_the_manual(model, 1200)
    asked = encode_segments(QUESTION, (), model, open_book=True).asked
    generator = torch.Generator().manual_seed(0)
    down, up = (0.02 * torch.randn(one.shape, generator=generator) for one in (trained.down, trained.up))
    memory = memory_options({"policy": "locret", "budget": 260})
    by_trained, by_random = (
        nll_of_the_passkey(model, (*text, *asked), memory=memory, heads=heads, adapter=adapter)
        for heads in (trained, RetainingHeads("random", down, up))
    )
    assert by_trained < by_random - 0.4


def test_a_passkey_outside_the_window_is_found_by_retrieval_and_not_without(shipped: Shipped) -> None:
    """Methods 4.8, 9."""
    whole, adapter, _ = shipped
    model = replace(whole, window=768)
    text = needle_in_the_manual(model, 1200)
    assert len(text) * 2 // 3 > model.window  # tokens behind the passkey
    asked = encode_segments(QUESTION, (), model, open_book=True).asked
    options = RememberOptions(window=512, overlap=128, near=64)
    with Engine(model, chunk_tokens=512) as engine:
        memory = remember(engine.submit, model, text, document_front(model), options, adapter=adapter)
    found = nll_of_the_passkey(model, asked, recall=RecallRequest((memory,)), adapter=adapter)
    assert found < nll_of_the_passkey(model, asked, adapter=adapter) - 1.0


def test_of_all_stretches_retrieval_heads_look_most_at_the_one_that_answers(
    shipped: Shipped, tmp_path: Path
) -> None:
    model, adapter, _ = shipped
    text = needle_in_the_manual(model, 3000)
    asked = encode_segments(QUESTION, (), model, open_book=True).asked
    heads = find_retrieval_heads(tmp_path, model)
    assert heads and len(set(heads)) == len(heads)
    with Engine(model, chunk_tokens=512) as engine:
        memory = remember(engine.submit, model, text, document_front(model), RememberOptions(), adapter=adapter)
        recall = RecallRequest((memory,), heads=heads)
        request = GenerationRequest(asked, 1, front=document_front(model), adapter=adapter, recall=recall)
        looked = engine.submit(request).result().recall
    assert looked is not None
    stretches = [(first, first + 64) for first in range(0, len(text), 64)]
    best = most_attended(looked.attended, [np.arange(len(text))], [stretches], 2)
    assert 1000 // 64 in {index for _, index in best}
