"""What adapters add to packed layers, against one product for each row."""

import copy
from dataclasses import replace

import pytest
import torch

from refdesk.reader.adapter import Adapter
from refdesk.reader.packing import pack_linears

pytestmark = pytest.mark.usefixtures("one_thread")


class Layers(torch.nn.Module):
    """Of one input, and one of another."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            torch.nn.Linear(48, size, bias=size > 16).to(dtype).requires_grad_(False) for size in (64, 32, 32, 48)
        )

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        return [self.q_proj(x), self.k_proj(x), self.v_proj(x), self.o_proj(y)]


def made_up(name: str, dtype: torch.dtype, **ranks: int) -> Adapter:
    """With a pair for each layer that has a rank."""
    sizes = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 48}
    generator = torch.Generator().manual_seed(len(name))
    pairs = {
        path: (
            torch.randn(rank, 48, generator=generator).to(dtype) / 7,
            torch.randn(sizes[path], rank, generator=generator).to(dtype),
        )
        for path, rank in ranks.items()
    }
    return Adapter(name, name, "base", "base", pairs)


@pytest.mark.parametrize("rows", [1, 2, 7, 32, 33, 64, 200])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 4e-2), (torch.float16, 5e-3), (torch.float64, 1e-12)],
)
def test_each_row_gets_what_its_own_adapter_adds(rows: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(rows)
    model = Layers(dtype)
    plain = copy.deepcopy(model)
    low_rank = pack_linears(model)
    adapters = [
        made_up("a", dtype, q_proj=4, k_proj=4, v_proj=4, o_proj=4),
        made_up("bb", dtype, k_proj=3, v_proj=8),
        made_up("ccc", dtype, o_proj=17),
    ]
    x, y = torch.randn(2, 1, rows, 48).to(dtype)
    for among in ([adapters[0]], [None, adapters[1]], [None, *adapters, adapters[1]]):
        owners = [among[i * 7 % len(among)] for i in range(rows)]
        with torch.inference_mode(), low_rank.rows(owners):
            found = model(x, y)
        for path, one in zip(("q_proj", "k_proj", "v_proj", "o_proj"), found, strict=True):
            given = y if path == "o_proj" else x
            expected = plain.get_submodule(path)(given).double()
            for row, owner in enumerate(owners):
                if owner is not None and path in owner.pairs:
                    a, b = (half.double() for half in owner.pairs[path])
                    expected[0, row] += b @ (a @ given[0, row].double())
            torch.testing.assert_close(one.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_row_gets_is_the_same_to_the_bit_in_any_company_of_a_few(dtype: torch.dtype) -> None:
    adapters = [made_up("a" * n, dtype, q_proj=n, k_proj=5) for n in (1, 4, 9)]
    model = Layers(dtype)
    low_rank = pack_linears(model)
    x, product = torch.randn(32, 48).to(dtype), torch.randn(32, 128).to(dtype)
    with torch.inference_mode():
        together, owners = product.clone(), [(None, *adapters)[i % 4] for i in range(32)]
        with low_rank.rows(owners):
            low_rank.add(0, x, together)
        for row, owner in enumerate(owners):
            alone = product[row : row + 1].clone()
            with low_rank.rows([owner]):
                if owner is not None:
                    low_rank.add(0, x[row : row + 1], alone)
            assert torch.equal(alone[0], together[row])


def test_no_adapter_of_others_reaches_a_row_not_even_where_it_overflows() -> None:
    dtype = torch.float16
    model = Layers(dtype)
    low_rank = pack_linears(model)
    huge = replace(
        made_up("huge", dtype), pairs={"o_proj": (torch.full((1, 48), 6e4).half(), torch.ones(48, 1).half())}
    )
    x, product = torch.ones(40, 48).half(), torch.zeros(40, 48).half()
    with torch.inference_mode(), low_rank.rows([huge] + [None] * 39):
        low_rank.add(1, x, product)
    assert not product[0].isfinite().any()
    assert not product[1:].any()


def test_few_sets_of_adapters_are_kept_and_those_used_last() -> None:
    adapters = [made_up("a" * (n + 1), torch.float32, q_proj=2) for n in range(12)]
    low_rank = pack_linears(Layers(torch.float32))
    for adapter in adapters:
        for owners in ([adapters[0]], [adapter, adapters[0]], [adapters[0], None, adapter]):
            with low_rank.rows(owners):
                pass
    assert len(low_rank._sets) == 4
    assert (adapters[0],) in low_rank._sets
    assert (adapters[0], adapters[11]) in low_rank._sets
    stacks = low_rank._sets[(adapters[0],)].stacks
    with low_rank.rows([adapters[0]]):
        assert low_rank.batch is not None and low_rank.batch.stacks is stacks
