"""bfloat16 in compiled kernels is torch's."""

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from refdesk.memory.bfloat16 import as_numpy, narrowed, widened


@njit
def _stored(numbers: Any, stored: Any) -> None:
    for i in range(len(numbers)):
        stored[i] = narrowed(numbers[i], stored[i])


@njit
def _wide(stored: Any, numbers: Any) -> None:
    for i in range(len(stored)):
        numbers[i] = widened(stored[i])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_numbers_are_stored_and_read_as_torch_does(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**31), 2**31, (100_000,), generator=generator).to(torch.int32).view(torch.float32)
    ties = (torch.arange(0x3F80, 0x3FC0, dtype=torch.int32) * 2**16 + 2**15).view(torch.float32)
    numbers = torch.cat([numbers[numbers.isfinite()], ties, -ties, torch.tensor([0.0, -0.0, float("inf"), 1e-40])])
    expected = numbers.to(dtype)
    stored, read = torch.empty_like(expected), torch.empty_like(numbers)
    _stored(numbers.numpy(), as_numpy(stored))
    np.testing.assert_array_equal(as_numpy(stored), as_numpy(expected))
    _wide(as_numpy(expected), read.numpy())
    assert torch.equal(read, expected.float())
