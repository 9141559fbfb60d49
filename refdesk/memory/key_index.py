"""Which keys of a very long document a query may be looking for: inverted lists by FAISS.

One index for each layer and KV head that retrieves: every head looks for something else, and the keys of one are
near each other. An index holds keys turned for no position, eight bits a number, and proposes; attention decides
among what it proposes with the keys themselves. It pays where looking at all keys takes longer (docs/results.md).
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

INDEXED_FROM = 2**16
"""Entries of a head, from which on it has an index."""

_LEAST = 39  # keys in a list, on average, and to find its centre by; FAISS warns of fewer
_ROUNDS = 10  # of k-means; lists only propose
_PROBED = 1 / 8  # of the lists

Vectors = NDArray[np.float32]


class KeyIndex:
    """Proposes keys by their inner product with a query."""

    def __init__(self, index: Any) -> None:
        """Of a `faiss.IndexIVF`."""
        self._index = index
        index.nprobe = max(1, round(index.nlist * _PROBED))

    @classmethod
    def build(cls, keys: Vectors) -> "KeyIndex":
        """Of `keys` `[n, head_dim]`, which get the ids 0 to n - 1."""
        count, dim = keys.shape
        lists = 2 ** int(np.log2(max(min(4 * count**0.5, count / _LEAST), 1)))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim),
            dim,
            lists,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        index.cp.niter = _ROUNDS
        index.train(np.ascontiguousarray(keys[:: max(1, count // (_LEAST * lists))]))
        index.add(np.ascontiguousarray(keys))
        return cls(index)

    @classmethod
    def read(cls, file: Path) -> "KeyIndex":
        """Mapped: nothing is read before it is searched. Raises RuntimeError for a file that holds none."""
        return cls(faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY))

    def write(self, file: Path) -> None:
        """There whole or not at all."""
        part = file.with_suffix(".part")
        faiss.write_index(self._index, str(part))
        part.replace(file)

    def propose(self, queries: Vectors, count: int) -> NDArray[np.int64]:
        """The ids of at most `count` keys for each of `queries` `[m, head_dim]`, `[m, count]`; -1 where there are
        fewer."""
        ids: NDArray[np.int64] = self._index.search(np.ascontiguousarray(queries), count)[1]
        return ids
