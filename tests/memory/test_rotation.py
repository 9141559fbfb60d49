"""Turning keys: what is turned for one position and then on is what is turned for the other."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from refdesk.memory.rotation import Rotation

pytestmark = pytest.mark.usefixtures("one_thread")


def model_turns(dim: int = 16, theta: float = 100_000.0) -> LlamaRotaryEmbedding:
    rope = {"rope_type": "default", "rope_theta": theta}
    return LlamaRotaryEmbedding(LlamaConfig(hidden_size=2 * dim, num_attention_heads=2, rope_parameters=rope))


def drawn(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def test_it_turns_as_the_model_does() -> None:
    rope, vectors = model_turns(), drawn(1, 3, 40, 16)
    positions = torch.arange(40) * 50
    cos, sin = rope(vectors, positions[None])
    expected, _ = apply_rotary_pos_emb(vectors, vectors, cos, sin)
    found = Rotation(rope.inv_freq).turn(vectors, positions)
    assert torch.allclose(found, expected, atol=1e-5)


def test_turning_on_by_the_difference_gives_the_keys_of_the_other_positions() -> None:
    """Methods 6.1.5, 6."""
    rotation, vectors = Rotation(model_turns().inv_freq), drawn(2, 30, 16)
    before, after = torch.randint(0, 4000, (2, 30)), torch.randint(0, 4000, (2, 30))
    turned = rotation.turn(rotation.turn(vectors, before), after - before)
    assert torch.allclose(turned, rotation.turn(vectors, after), atol=2e-3)
    near = rotation.turn(rotation.turn(vectors, before // 40), after // 40 - before // 40)
    assert torch.allclose(near, rotation.turn(vectors, after // 40), atol=1e-5)


def test_turning_back_gives_what_was_not_turned() -> None:
    rotation, vectors = Rotation(model_turns().inv_freq), drawn(2, 30, 16)
    positions = torch.arange(30)
    assert torch.allclose(rotation.turn(rotation.turn(vectors, positions), -positions), vectors, atol=1e-5)


def test_turning_by_nothing_changes_no_bit() -> None:
    rotation = Rotation(model_turns().inv_freq)
    for dtype in (torch.float32, torch.bfloat16):
        vectors = drawn(5, 16).to(dtype)
        assert torch.equal(rotation.turn(vectors, torch.zeros(5, dtype=torch.int64)), vectors)


def test_half_precision_is_turned_in_full_and_rounded_once() -> None:
    rotation, vectors = Rotation(model_turns().inv_freq), drawn(30, 16).bfloat16()
    found = rotation.turn(vectors, torch.arange(30) * 100)
    assert torch.equal(found, rotation.turn(vectors.float(), torch.arange(30) * 100).bfloat16())


def test_dimensions_behind_the_pairs_stay() -> None:
    rotation, vectors = Rotation(torch.tensor([1.0, 0.1])), drawn(6, 7)
    found = rotation.turn(vectors, torch.arange(6))
    assert torch.equal(found[:, 4:], vectors[:, 4:])
    assert not torch.equal(found[1:, :4], vectors[1:, :4])
    assert torch.allclose(found.norm(dim=-1), vectors.norm(dim=-1))
