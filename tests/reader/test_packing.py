"""Packed linear layers compute what plain ones do."""

import copy

import pytest
import torch

from refdesk.reader.packing import PackedLinear, pack_linears


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_equals_plain(rows: int, bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(48, 80, bias=bias).to(dtype).requires_grad_(False)
    model = torch.nn.Sequential(copy.deepcopy(plain))
    pack_linears(model)
    if not isinstance(model[0], PackedLinear):
        pytest.skip(f"this CPU has no kernels for {dtype}")
    x = torch.randn(1, rows, 48, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), plain(x), atol=tolerance, rtol=tolerance)


def test_what_is_not_a_plain_linear_layer_stays() -> None:
    class Special(torch.nn.Linear):
        """Somebody's own."""

    model = torch.nn.Sequential(Special(4, 4), torch.nn.Embedding(4, 4))
    pack_linears(model)
    assert [type(layer) for layer in model] == [Special, torch.nn.Embedding]
