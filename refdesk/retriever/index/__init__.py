"""The contract of a vector index: derived from SQL, rebuilt from it at any time. One file a back end."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


class VectorIndexError(Exception):
    """A back end cannot do its work: an old extension, too many dimensions."""


class VectorIndex(Protocol):
    """Inner products of unit vectors; higher is better. Safe to call from several threads."""

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Put in `vectors` of shape (n, dimension) under `ids` (n,); an id that is held is replaced."""
        ...

    def remove(self, ids: Ids) -> None:
        """Take ids out; those not held are passed over."""
        ...

    def search(self, queries: Vectors, k: int, among: Ids | None = None) -> tuple[Vectors, Ids]:
        """The best `k` for each of `queries` (m, dimension), only ids in `among` if that is given.

        Returns scores and ids of shape (m, min(k, candidates)), best first, ties by smaller id: k
        results come back whenever k candidates exist. Raises ValueError for k < 1 or a wrong shape.
        """
        ...

    def ids(self) -> Ids:
        """All ids held, in ascending order."""
        ...

    def flush(self) -> None:
        """Make what was added and removed survive the process, all of it or nothing."""
        ...

    def drop(self) -> None:
        """Remove every trace of the index."""
        ...


def check_vectors(vectors: Vectors, dimension: int, *, ids: Ids | None = None) -> Vectors:
    """Vectors as contiguous float32. Raises ValueError when their shape or a value does not fit."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != dimension:
        raise ValueError(f"vectors of shape {array.shape}: expected (n, {dimension})")
    if ids is not None and len(ids) != len(array):
        raise ValueError(f"{len(ids)} ids for {len(array)} vectors")
    if not np.isfinite(array).all():
        raise ValueError("vectors hold values that are not finite")
    return array


def check_k(k: int) -> None:
    """Raises ValueError for k < 1."""
    if k < 1:
        raise ValueError(f"k {k}: expected at least 1")
