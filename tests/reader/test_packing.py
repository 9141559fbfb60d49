"""Packed linear layers compute what plain ones do."""

import copy

import pytest
import torch

from refdesk.reader.packing import PackedLinear, pack_linears


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3), (torch.float64, 1e-12)],
)
def test_packed_equals_plain(rows: int, bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(48, 80, bias=bias).to(dtype).requires_grad_(False)
    model = torch.nn.Sequential(copy.deepcopy(plain))
    pack_linears(model)
    assert isinstance(model[0], PackedLinear)
    x = torch.randn(1, rows, 48, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), plain(x), atol=tolerance, rtol=tolerance)


class Siblings(torch.nn.Module):
    """Three layers of one input, as attention has them."""

    def __init__(self, dtype: torch.dtype, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (
            torch.nn.Linear(48, size, bias=bias).to(dtype).requires_grad_(False) for size in (64, 32, 16)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.q_proj(x), self.k_proj(x), self.v_proj(x)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_one_input_compute_what_each_does_alone(bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = Siblings(dtype, bias)
    packed = copy.deepcopy(plain)
    pack_linears(packed)
    assert len({id(layer._packed) for layer in packed.children()}) == 1
    with torch.inference_mode():
        for _ in range(3):
            x = torch.randn(2, 5, 48, dtype=dtype)
            for one, other in zip(packed(x), plain(x), strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_layer_asked_with_another_input_never_gives_a_sibling_s_output() -> None:
    torch.manual_seed(0)
    plain = Siblings(torch.float32, bias=False)
    packed = copy.deepcopy(plain)
    pack_linears(packed)
    x, y = torch.randn(2, 48), torch.randn(2, 48)
    asked = [
        ("q_proj", x),
        ("k_proj", y),
        ("v_proj", x),
        ("v_proj", x),
        ("k_proj", x),
        ("q_proj", y),
        ("v_proj", y),
    ]
    with torch.inference_mode():
        for name, given in asked:
            torch.testing.assert_close(packed.get_submodule(name)(given), plain.get_submodule(name)(given))


def test_a_weight_that_is_the_embedding_s_too_is_not_copied_where_it_need_not_be_laid_out() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8, bias=False)).double()
    model[1].weight = model[0].weight
    pack_linears(model)
    assert model[1]._packed._weight.data_ptr() == model[0].weight.data_ptr()


def test_the_layers_are_known_by_their_paths() -> None:
    model = torch.nn.Sequential(Siblings(torch.float32, bias=False), torch.nn.Linear(4, 8))
    shapes = {"0.q_proj": (64, 48), "0.k_proj": (32, 48), "0.v_proj": (16, 48), "1": (8, 4)}
    assert pack_linears(model).shapes == shapes


def test_what_is_not_a_plain_linear_layer_stays() -> None:
    class Special(torch.nn.Linear):
        """Somebody's own."""

    model = torch.nn.Sequential(Special(4, 4), torch.nn.Embedding(4, 4))
    pack_linears(model)
    assert [type(layer) for layer in model] == [Special, torch.nn.Embedding]
