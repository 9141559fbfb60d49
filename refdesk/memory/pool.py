"""The block pool: one allocation of keys and values for every layer, KV head and sequence.

A block holds `block_size` entries of one KV head in one layer of one sequence or run. Who owns which block is
written in block tables (`refdesk.memory.sequence`); the pool knows only which are free. This is the layout of
KV-Compress (arXiv 2410.00161, section 4.1): because layers and heads share the pool, what is evicted in any of
them can be used by all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from refdesk.memory.errors import OutOfBlocks
from refdesk.memory.rotation import Rotation

BLOCK_SIZE = 16

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class CacheShape:
    """What a model keeps of each token: a key and a value of `head_dim` for every layer and KV head."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def slots(self) -> int:
        """Entries per token: one for each layer and KV head."""
        return self.layers * self.kv_heads


class BlockPool:
    """Keys and values `[blocks, block_size, head_dim]`, and for each entry the position that its key is rotated
    for (int32), its score (float32, higher is kept longer) and its novelty (float32, nats; where a policy asks for
    it), all `[blocks, block_size]`.

    `rotation`: how keys are turned for their positions; None where that is not known, and positions must stay.
    `fill` `[blocks]` (int32, on the CPU) is how many entries of a block are in use, always the first ones.
    """

    def __init__(self, shape: CacheShape, blocks: int, block_size: int = BLOCK_SIZE) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError(f"{blocks} blocks of {block_size}; expected at least one of at least one entry")
        self.shape = shape
        self.block_size = block_size
        self.blocks = blocks
        # Not zeroed: the system hands out real memory only for what is written.
        self.keys = torch.empty(blocks, block_size, shape.head_dim, dtype=shape.dtype, device=shape.device)
        self.values = torch.empty_like(self.keys)
        self.positions = torch.empty(blocks, block_size, dtype=torch.int32, device=shape.device)
        self.scores = torch.empty(blocks, block_size, dtype=torch.float32, device=shape.device)
        self.novelty = torch.empty_like(self.scores)
        self.rotation: Rotation | None = None
        self.fill = np.zeros(blocks, np.int32)
        self._free = np.arange(blocks - 1, -1, -1, dtype=np.int32)  # a stack; neighbours come out together
        self._top = blocks

    @classmethod
    def of_bytes(cls, shape: CacheShape, size: int, block_size: int = BLOCK_SIZE) -> "BlockPool":
        """The largest pool within `size` bytes, at least one block."""
        return cls(shape, max(1, size // block_bytes(shape, block_size)), block_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, all that is kept of an entry included."""
        return block_bytes(self.shape, self.block_size)

    @property
    def free(self) -> int:
        """Blocks that nobody owns."""
        return self._top

    @property
    def used(self) -> int:
        """Blocks that somebody owns."""
        return self.blocks - self._top

    def take(self, count: int) -> Ids:
        """`count` blocks, empty, neighbours where possible.

        Raises:
            OutOfBlocks: there are fewer; none is taken.
        """
        if count > self._top:
            raise OutOfBlocks(count, self._top, self.blocks)
        self._top -= count
        ids = self._free[self._top : self._top + count][::-1].copy()
        self.fill[ids] = 0
        return ids

    def give(self, ids: Ids) -> None:
        """Take blocks back. Each must be in use, and is given once."""
        if self._top + len(ids) > self.blocks:
            raise ValueError(f"{len(ids)} blocks given back, but only {self.used} are in use")
        self._free[self._top : self._top + len(ids)] = np.sort(ids)[::-1]
        self._top += len(ids)

    def check_integrity(self, owned: Iterable[Ids]) -> None:
        """Raise AssertionError unless every block is either free or in exactly one of `owned`."""
        everything = np.concatenate([self._free[: self._top], *owned])
        seen = np.bincount(everything, minlength=self.blocks)
        lost, twice = np.flatnonzero(seen == 0), np.flatnonzero(seen > 1)
        assert not len(lost), f"{len(lost)} blocks are neither free nor owned, such as {lost[:5].tolist()}"
        assert not len(twice), f"{len(twice)} blocks are owned twice, such as {twice[:5].tolist()}"


def block_bytes(shape: CacheShape, block_size: int = BLOCK_SIZE) -> int:
    """Bytes of one block: keys, values, positions, scores and novelty."""
    return block_size * (2 * shape.head_dim * shape.dtype.itemsize + 12)
