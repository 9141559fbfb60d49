"""One row of attention per sequence, read in place from the pool: the CPU kernel of decoding.

Compiled by numba on first use and kept on disk. It runs on the threads of torch's own OpenMP pool (importing torch
first makes both use one libgomp), so that neither waits for the other's idle threads.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from refdesk.memory.bfloat16 import widened


@intrinsic
def _as_float(typing_context: Any, bits: Any) -> Any:
    """The float32 of these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@njit(inline="always", cache=True)
def _exp(x: Any) -> Any:
    """e to the `x` of at most 0, to 2e-7 absolute: 2^k times a polynomial of what is left, which vectorizes."""
    y = max(x * np.float32(1.4426950408889634), np.float32(-126))
    k = math.floor(y + np.float32(0.5))
    f = y - k
    p = np.float32(1.535336188319500e-4)
    p = p * f + np.float32(1.339887440266574e-3)
    p = p * f + np.float32(9.618437357674640e-3)
    p = p * f + np.float32(5.550332471162809e-2)
    p = p * f + np.float32(2.402264791363012e-1)
    p = p * f + np.float32(6.931472028550421e-1)
    p = p * f + np.float32(1)
    return p * _as_float(np.uint32(np.int32(k) + np.int32(127)) << np.uint32(23))


@njit(inline="always", cache=True)
def _widen_block(stored: Any, wide: Any) -> None:
    for i in range(stored.shape[0]):
        for c in range(stored.shape[1]):
            wide[i, c] = widened(stored[i, c])


@njit(inline="always", cache=True)
def _turn(query: Any, cos: Any, sin: Any, turned: Any) -> None:
    pairs = len(cos)
    for g in range(query.shape[0]):
        for c in range(pairs):
            turned[g, c] = query[g, c] * cos[c] - query[g, c + pairs] * sin[c]
            turned[g, c + pairs] = query[g, c + pairs] * cos[c] + query[g, c] * sin[c]
        for c in range(2 * pairs, query.shape[1]):
            turned[g, c] = query[g, c]


@njit(fastmath=True, nogil=True, cache=True)
def _attend_row(
    query: Any,
    keys: Any,
    values: Any,
    scores: Any,
    fill: Any,
    table: Any,
    moved: Any,
    shared: Any,
    last: Any,
    accumulate: Any,
    scaling: Any,
    cos: Any,
    sin: Any,
    out: Any,
    wide: Any,
    weights: Any,
    turned: Any,
) -> None:
    group, dim = query.shape
    place = -1
    top = np.full(group, -np.inf, np.float32)
    held = 0
    for b in range(len(table)):
        block = table[b]
        size = last if b == len(table) - 1 else fill[block]
        if moved[b] != place:
            place = moved[b]
            _turn(query, cos[place], sin[place], turned)
        _widen_block(keys[block, :size], wide)
        for g in range(group):
            highest = top[g]
            for i in range(size):
                x = np.float32(0)
                for c in range(dim):
                    x += turned[g, c] * wide[i, c]
                x *= scaling
                weights[g, held + i] = x
                highest = max(highest, x)
            top[g] = highest
        held += size
    for g in range(group):
        total = np.float32(0)
        for i in range(held):
            w = _exp(weights[g, i] - top[g])
            weights[g, i] = w
            total += w
        total = np.float32(1) / total
        for i in range(held):
            weights[g, i] *= total
    out[:] = 0
    held = 0
    for b in range(len(table)):
        block = table[b]
        size = last if b == len(table) - 1 else fill[block]
        _widen_block(values[block, :size], wide)
        for g in range(group):
            for i in range(0, size - 3, 4):
                w0 = weights[g, held + i]
                w1 = weights[g, held + i + 1]
                w2 = weights[g, held + i + 2]
                w3 = weights[g, held + i + 3]
                for c in range(dim):
                    out[g, c] += w0 * wide[i, c] + w1 * wide[i + 1, c] + w2 * wide[i + 2, c] + w3 * wide[i + 3, c]
            for i in range(size - size % 4, size):
                w = weights[g, held + i]
                for c in range(dim):
                    out[g, c] += w * wide[i, c]
        if accumulate and b >= shared:
            for g in range(group):
                for i in range(size):
                    scores[block, i] += weights[g, held + i] * weights[g, held + i]
        held += size


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def attend(
    query: Any,
    key: Any,
    value: Any,
    keys: Any,
    values: Any,
    positions: Any,
    scores: Any,
    fill: Any,
    table: Any,
    moved: Any,
    blocks: Any,
    shared: Any,
    offset: Any,
    position: Any,
    accumulate: Any,
    scaling: Any,
    cos: Any,
    sin: Any,
    threads: Any,
    out: Any,
) -> None:
    """Attention of one new row for each of `sequences`, in one layer. 16-bit numbers are bfloat16, as uint16.

    - `query`, `out` `[sequences, kv_heads, group, head_dim]` float32; `key`, `value` `[sequences, kv_heads,
      head_dim]` as stored: the new entries, which are written first;
    - `keys`, `values`, `positions`, `scores`, `fill`: the pool's;
    - `table` `[sequences, kv_heads, columns]`, of which `blocks` `[sequences, kv_heads]` are held, the new entry's
      included; it goes to `offset` in the last of them. `shared`: how many in front belong to others;
    - `moved`, as `table`: at which place each block stands, of those of its sequence; `cos`, `sin` `[sequences,
      places, pairs]` turn a query back for each, instead of turning keys on;
    - `position` and `accumulate` `[sequences]`: of the new token; whether its squared attention goes to `scores`.
    """
    sequences, heads, group, dim = query.shape
    block_size = keys.shape[1]
    for thread in prange(threads):
        wide = np.empty((block_size, dim), np.float32)
        weights = np.empty((group, table.shape[2] * block_size), np.float32)
        turned = np.empty((group, dim), np.float32)
        for row in range(thread * sequences * heads // threads, (thread + 1) * sequences * heads // threads):
            s, h = row // heads, row % heads
            count, o = blocks[s, h], offset[s, h]
            block = table[s, h, count - 1]
            keys[block, o] = key[s, h]
            values[block, o] = value[s, h]
            positions[block, o] = position[s]
            scores[block, o] = 0
            _attend_row(
                query[s, h],
                keys,
                values,
                scores,
                fill,
                table[s, h, :count],
                moved[s, h, :count],
                shared[s, h],
                o + 1,
                accumulate[s],
                scaling,
                cos[s],
                sin[s],
                out[s, h],
                wide,
                weights,
                turned,
            )
