"""Retaining heads: what they are shown, and what they say of it."""

import pytest
import torch

from refdesk.memory.retaining_heads import RetainingHeads, head_input

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def heads(dtype: torch.dtype = torch.float32) -> RetainingHeads:
    """Of 2 layers with 3 query and 1 KV heads of 4, 6 wide."""
    return RetainingHeads("x", drawn(2, 20, 6).to(dtype), drawn(2, 6, 1).to(dtype))


def test_a_token_is_shown_as_its_queries_then_its_key_then_its_value() -> None:
    query, key, value = drawn(3, 5, 4), drawn(1, 5, 4), drawn(1, 5, 4) + 1
    shown = head_input(query, key, value)
    assert shown.shape == (5, 20)
    for token in range(5):
        parts = [query[0, token], query[1, token], query[2, token], key[0, token], value[0, token]]
        assert torch.equal(shown[token], torch.cat(parts))


def test_the_score_is_that_of_the_equation() -> None:
    """Methods 1.2.1, by hand: s = SiLU(x W1) W2, one number for each KV head."""
    one, query, key, value = heads(), drawn(3, 5, 4), drawn(1, 5, 4), drawn(1, 5, 4) + 1
    for layer in (0, 1):
        found = one.score(layer, query, key, value)
        assert (found.shape, found.dtype) == ((1, 5), torch.float32)
        for token, x in enumerate(head_input(query, key, value)):
            hidden = [float(x @ one.down[layer][:, i]) for i in range(6)]
            silu = [h / (1 + pow(2.718281828459045, -h)) for h in hidden]
            expected = sum(h * float(one.up[layer][i, 0]) for i, h in enumerate(silu))
            assert float(found[0, token]) == pytest.approx(expected, abs=1e-4)


def test_heads_in_half_precision_say_nearly_the_same() -> None:
    query, key, value = drawn(3, 50, 4), drawn(1, 50, 4), drawn(1, 50, 4)
    full, half = (heads(dtype).score(1, query, key, value) for dtype in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert (full - half).abs().max() < 0.03 * full.abs().max()


def test_heads_of_the_same_fingerprint_are_the_same() -> None:
    other = RetainingHeads("x", torch.empty(0), torch.empty(0))
    assert heads() == other and hash(heads()) == hash(other)
    assert heads() != RetainingHeads("y", other.down, other.up)
