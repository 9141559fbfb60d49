"""Linear layers as they are multiplied fastest: layers of one input at once, and on a CPU weights laid out once.

torch gives oneDNN plain weights, which it lays out anew at every call; with few rows that takes longer than the
product. And with one row a product is so short that beginning it costs as much (docs/results.md).
"""

from collections.abc import Sequence
from typing import Any

import torch

from refdesk.reader.low_rank import LowRank

# Children of one module that its code gives the same input, in the order it asks them.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class PackedLinears:
    """`x @ weight.T + bias` for several layers of one input, the same to rounding, and what `low_rank` adds to its
    `group` of layers. The weights cannot be got back, moved or trained."""

    def __init__(
        self, linears: Sequence[torch.nn.Linear], low_rank: LowRank | None = None, group: int = 0
    ) -> None:
        weights = [linear.weight.detach() for linear in linears]
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]  # one may be the embedding's: not copied
        self._laid_out = _has_kernels(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self._laid_out else weight
        self._bias = torch.cat(biases) if biases else None
        self._sizes = [linear.out_features for linear in linears]
        self._low_rank = low_rank or LowRank()
        self._group = group
        self._input: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()

    def output(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """What layer `index` makes of `x`. The first that is asked computes for all; the last lets go of it."""
        if self._input is not x:
            product = self._product(x)
            if self._low_rank.batch is not None:
                self._low_rank.add(self._group, x, product)
            self._input = x
            self._outputs = product.split_with_sizes(self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self._input, self._outputs = None, ()
        return output

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if self._laid_out:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return product
        return torch.nn.functional.linear(x, self._weight, self._bias)


class PackedLinear(torch.nn.Module):
    """One of them, in the place of a linear layer."""

    def __init__(self, packed: PackedLinears, index: int) -> None:
        super().__init__()
        self._packed = packed
        self._index = index

    def forward(self, x: torch.Tensor) -> Any:
        """`x` `[..., in_features]`; the result is `[..., out_features]`."""
        return self._packed.output(self._index, x)


def pack_linears(model: torch.nn.Module) -> LowRank:
    """Replace every linear layer of `model`, in place; the result is where they are told of adapters."""
    low_rank = LowRank()
    for place, parent in list(model.named_modules()):
        linears = {name: child for name, child in parent.named_children() if type(child) is torch.nn.Linear}
        for names in (*_SIBLINGS, *((name,) for name in list(linears))):
            members = [linears[name] for name in names if name in linears]
            if len(members) == len(names) and len({member.bias is None for member in members}) == 1:
                group = low_rank.join([f"{place}.{name}" if place else name for name in names], members)
                packed = PackedLinears(members, low_rank, group)
                for index, name in enumerate(names):
                    setattr(parent, name, PackedLinear(packed, index))
                    del linears[name]
    return low_rank


def _has_kernels(weight: torch.Tensor) -> bool:
    """Whether oneDNN multiplies with it on this machine."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    supported: dict[torch.dtype, bool] = {
        torch.float32: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return supported.get(weight.dtype, False)
