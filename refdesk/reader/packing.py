"""Linear layers as a CPU multiplies them fastest: weights laid out once, layers of one input multiplied at once.

torch gives oneDNN plain weights, which it lays out anew at every call; with few rows that takes longer than the
product. And with one row a product is so short that beginning it costs as much (docs/results.md).
"""

from collections.abc import Sequence
from typing import Any

import torch

# Children of one module that its code gives the same input, in the order it asks them.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class PackedLinears:
    """`x @ weight.T + bias` for several layers of one input, the same to rounding. The weights cannot be got back,
    moved or trained."""

    def __init__(self, linears: Sequence[torch.nn.Linear]) -> None:
        weight = torch.cat([linear.weight.detach() for linear in linears])
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = torch.cat(biases) if biases else None
        self._sizes = [linear.out_features for linear in linears]
        self._input: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()

    def output(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """What layer `index` makes of `x`. The first that is asked computes for all; the last lets go of it."""
        if self._input is not x:
            self._input = x
            product = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            self._outputs = product.split(self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self._input, self._outputs = None, ()
        return output


class PackedLinear(torch.nn.Module):
    """One of them, in the place of a linear layer."""

    def __init__(self, packed: PackedLinears, index: int) -> None:
        super().__init__()
        self._packed = packed
        self._index = index

    def forward(self, x: torch.Tensor) -> Any:
        """`x` `[..., in_features]`; the result is `[..., out_features]`."""
        return self._packed.output(self._index, x)


def pack_linears(model: torch.nn.Module) -> None:
    """Replace every linear layer of `model`, in place, where this machine's CPU has kernels for its numbers."""
    for parent in list(model.modules()):
        linears = {
            name: child
            for name, child in parent.named_children()
            if type(child) is torch.nn.Linear and _packable(child.weight.dtype)
        }
        for group in (*_SIBLINGS, *((name,) for name in list(linears))):
            members = [linears[name] for name in group if name in linears]
            if len(members) == len(group) and len({member.bias is None for member in members}) == 1:
                packed = PackedLinears(members)
                for index, name in enumerate(group):
                    setattr(parent, name, PackedLinear(packed, index))
                    del linears[name]


def _packable(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    supported: dict[torch.dtype, bool] = {
        torch.float32: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return supported.get(dtype, False)
