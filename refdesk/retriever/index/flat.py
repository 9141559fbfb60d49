"""FAISS: exact search in memory, one file on disk."""

import os
import threading
from collections.abc import Callable, Container
from pathlib import Path

import faiss
import numpy as np
import structlog

from refdesk.retriever.index import Ids, Vectors, check_k, check_vectors

log = structlog.get_logger()


class FaissIndex:
    """`IndexIDMap2(IndexFlatIP)`: deleting and filtering are exact, and there is nothing to train."""

    def __init__(self, path: Path, dimension: int) -> None:
        """Open the index of `path`; one that cannot be read starts empty, to be filled from SQL."""
        self._path = path
        self._dimension = dimension
        self._lock = threading.Lock()
        self._index = self._load()
        self._changed = False

    def _load(self) -> "faiss.IndexIDMap2":
        if self._path.exists():
            try:
                index = faiss.deserialize_index(np.fromfile(self._path, dtype=np.uint8))
                if isinstance(index, faiss.IndexIDMap2) and index.d == self._dimension:
                    return index
                reason = f"{index.d} dimensions, expected {self._dimension}"
            except (RuntimeError, ValueError, MemoryError) as error:
                reason = str(error).splitlines()[0]
            log.warning("index_unreadable_rebuilding", file=self._path.name, reason=reason)
        return faiss.IndexIDMap2(faiss.IndexFlatIP(self._dimension))

    def add(self, ids: Ids, vectors: Vectors) -> None:
        array = check_vectors(vectors, self._dimension, ids=ids)
        numbers = np.ascontiguousarray(ids, dtype=np.int64)
        with self._lock:
            self._index.remove_ids(faiss.IDSelectorBatch(numbers))
            self._index.add_with_ids(array, numbers)
            self._changed = True

    def remove(self, ids: Ids) -> None:
        with self._lock:
            self._index.remove_ids(faiss.IDSelectorBatch(np.ascontiguousarray(ids, dtype=np.int64)))
            self._changed = True

    def search(self, queries: Vectors, k: int, among: Ids | None = None) -> tuple[Vectors, Ids]:
        check_k(k)
        array = check_vectors(queries, self._dimension)
        with self._lock:
            held = faiss.vector_to_array(self._index.id_map)
            candidates = len(held) if among is None else int(np.isin(np.unique(among), held).sum())
            count = min(k, candidates)
            if count == 0:
                return np.empty((len(array), 0), np.float32), np.empty((len(array), 0), np.int64)
            parameters = None
            if among is not None:
                selector = faiss.IDSelectorBatch(np.ascontiguousarray(among, dtype=np.int64))
                parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            scores, ids = self._index.search(array, count, params=parameters)
        order = np.lexsort((ids, -scores), axis=1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)

    def ids(self) -> Ids:
        with self._lock:
            return np.sort(faiss.vector_to_array(self._index.id_map))

    def flush(self) -> None:
        with self._lock:
            if not self._changed and self._path.exists():
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Of its own name, so that two processes never write into one file; readers see old or new.
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                faiss.serialize_index(self._index).tofile(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
            self._changed = False

    def drop(self) -> None:
        with self._lock:
            for file in (self._path, *self._path.parent.glob(f"{self._path.stem}.*.tmp")):  # a killed flush's too
                file.unlink(missing_ok=True)
            self._index.reset()

    @staticmethod
    def sweep(folder: Path, known: Callable[[], Container[str]]) -> None:
        """Remove the files in `folder` whose index is not `known` by name. That is asked after they are listed, so
        that an index that is made meanwhile stays."""
        files = [*folder.glob("*.faiss"), *folder.glob("*.tmp")]
        names = known()
        for file in files:
            if file.name.split(".")[0] not in names:
                file.unlink(missing_ok=True)
