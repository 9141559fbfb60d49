"""bfloat16 for numpy and numba, which know none: its bits as uint16, and what compiled kernels do with them."""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD = ir.IntType(32)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The same memory; bfloat16 as uint16."""
    array: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


@intrinsic
def widened(typing_context: Any, number: Any) -> Any:
    """The float32 of a stored number: itself, or that of the bfloat16 whose bits a uint16 holds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(number, types.Float):
            return arguments[0]
        return builder.bitcast(builder.shl(builder.zext(arguments[0], _WORD), _WORD(16)), ir.FloatType())

    return types.float32(number), generate


@intrinsic
def narrowed(typing_context: Any, number: Any, like: Any) -> Any:
    """A float32 as it is stored where `like` is: itself, or the bits of the nearest bfloat16, of two the even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(like, types.Float):
            return arguments[0]
        bits = builder.bitcast(arguments[0], _WORD)
        odd = builder.and_(builder.lshr(bits, _WORD(16)), _WORD(1))
        rounded = builder.add(builder.add(bits, _WORD(0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, _WORD(16)), ir.IntType(16))

    return like(types.float32, like), generate
