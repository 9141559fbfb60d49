"""What adapters add to a few rows: a CPU kernel, for products so small that torch's take longer to begin.

Compiled by numba on first use and kept on disk.
"""

from typing import Any

import numpy as np
from numba import njit

from refdesk.memory.bfloat16 import narrowed, widened


@njit(fastmath=True, nogil=True, cache=True)
def add_to_rows(x: Any, down: Any, up: Any, pairs: Any, own: Any, product: Any) -> None:
    """Add to each row of `product` `[rows, out]` what its own adapter makes of that of `x` `[rows, in]`. 16-bit
    numbers are bfloat16, as uint16; sums are float32.

    - `down` `[ranks, in]`, `up` `[ranks, out]`: of all adapters;
    - `pairs` `[pairs, 5]`: whose it is, its first rank and the one behind its last, fours of them, and its first
      output and the one behind its last; an adapter has one pair for each output;
    - `own` `[rows]`: each row's adapter.
    """
    width = x.shape[1]
    wide = np.empty(width, np.float32)
    sums = np.empty(product.shape[1], np.float32)
    for row in range(len(own)):
        for c in range(width):
            wide[c] = widened(x[row, c])
        for p in range(len(pairs)):
            owner, first, behind, start, end = pairs[p]
            if owner != own[row]:
                continue
            target = product[row, start:end]
            for c in range(end - start):
                sums[c] = widened(target[c])
            for r in range(first, behind, 4):
                a0, a1, a2, a3 = down[r], down[r + 1], down[r + 2], down[r + 3]
                x0 = x1 = x2 = x3 = np.float32(0)
                for c in range(width):
                    x0 += wide[c] * widened(a0[c])
                    x1 += wide[c] * widened(a1[c])
                    x2 += wide[c] * widened(a2[c])
                    x3 += wide[c] * widened(a3[c])
                b0, b1, b2, b3 = up[r, start:end], up[r + 1, start:end], up[r + 2, start:end], up[r + 3, start:end]
                for c in range(end - start):
                    sums[c] += (
                        x0 * widened(b0[c]) + x1 * widened(b1[c]) + x2 * widened(b2[c]) + x3 * widened(b3[c])
                    )
            for c in range(end - start):
                target[c] = narrowed(sums[c], target[c])
