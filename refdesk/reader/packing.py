"""Linear layers whose weights lie as oneDNN's kernels read them.

On a CPU, torch gives oneDNN plain weights, which it lays out anew at every call; with few rows that takes longer
than the product. Packed once, a decode step of the default model takes 0.6 of the time (docs/results.md).
"""

from typing import Any

import torch


class PackedLinear(torch.nn.Module):
    """`x @ weight.T + bias`, the same to rounding. The weights cannot be got back, moved, or trained."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = linear.bias

    def forward(self, x: torch.Tensor) -> Any:
        """`x` `[..., in_features]`; the result is `[..., out_features]`."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


def pack_linears(model: torch.nn.Module) -> None:
    """Replace every linear layer of `model`, in place, where this machine's CPU has kernels for its numbers."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    supported = {
        torch.float32: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and supported.get(child.weight.dtype, False):
                setattr(parent, name, PackedLinear(child))
