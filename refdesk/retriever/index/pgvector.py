"""pgvector: half-precision vectors in PostgreSQL, HNSW with iterative scans, exact where that falls short."""

import re
from typing import Any

import numpy as np
from pgvector import HalfVector
from sqlalchemy import Connection, Engine, text

from refdesk.retriever.index import Ids, VectorIndexError, Vectors, check_k, check_vectors

_LARGEST_DIMENSION = 4000  # of an HNSW index over halfvec
_OLDEST = (0, 8, 0)  # the first with iterative scans
# Below this many candidates, computing every inner product is as fast as a walk through the graph.
_EXACT_BELOW = 10_000


class PgvectorIndex:
    """A table `(id, embedding)` beside the truth, in the same database."""

    def __init__(self, engine: Engine, table: str, dimension: int) -> None:
        """Make the table and its index where they are missing. Raises VectorIndexError."""
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,50}", table):
            raise VectorIndexError(f"table name {table!r}: expected a-z, 0-9 and '_'")
        if not 1 <= dimension <= _LARGEST_DIMENSION:
            raise VectorIndexError(f"{dimension} dimensions: pgvector indexes at most {_LARGEST_DIMENSION}")
        self._engine, self._table, self._dimension = engine, table, dimension
        with engine.begin() as connection:
            # Two processes may start at once, and CREATE … IF NOT EXISTS alone does not make that safe.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:table))"), {"table": table})
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
            _check_version(connection)
            connection.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS {table}"
                    f" (id bigint PRIMARY KEY, embedding halfvec({dimension}) NOT NULL)"
                )
            )
            connection.execute(
                text(f"CREATE INDEX IF NOT EXISTS {table}_hnsw ON {table} USING hnsw (embedding halfvec_ip_ops)")
            )

    def add(self, ids: Ids, vectors: Vectors) -> None:
        array = check_vectors(vectors, self._dimension, ids=ids)
        rows = [{"id": int(i), "embedding": _literal(v)} for i, v in zip(ids, array, strict=True)]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(
                    text(
                        f"INSERT INTO {self._table} VALUES (:id, CAST(:embedding AS halfvec))"
                        " ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding"
                    ),
                    rows,
                )

    def remove(self, ids: Ids) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(f"DELETE FROM {self._table} WHERE id = ANY(:ids)"), {"ids": ids.tolist()})

    def search(self, queries: Vectors, k: int, among: Ids | None = None) -> tuple[Vectors, Ids]:
        check_k(k)
        array = check_vectors(queries, self._dimension)
        only = None if among is None else np.unique(among).tolist()
        with self._engine.begin() as connection:
            where = "" if only is None else " WHERE id = ANY(:among)"
            total = connection.execute(
                text(f"SELECT count(*) FROM {self._table}{where}"),
                {"among": only} if only is not None else {},
            ).scalar_one()
            count = min(k, total)
            found = [self._nearest(connection, query, count, total, only) for query in array]
        scores = np.asarray([[score for score, _ in row] for row in found], dtype=np.float32)
        ids = np.asarray([[number for _, number in row] for row in found], dtype=np.int64)
        return scores.reshape(len(array), count), ids.reshape(len(array), count)

    def _nearest(
        self, connection: Connection, query: Any, count: int, total: int, among: list[int] | None
    ) -> list[tuple[float, int]]:
        if count == 0:
            return []
        if total > _EXACT_BELOW:
            connection.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
            connection.execute(text(f"SET LOCAL hnsw.ef_search = {min(1000, max(100, 2 * count))}"))
            rows = self._select(connection, query, count, among, "embedding <#> CAST(:query AS halfvec)")
            if len(rows) == count:
                return rows
        # The graph was cut short, or is not worth it: "+ 0" is an order that no index serves.
        return self._select(connection, query, count, among, "(embedding <#> CAST(:query AS halfvec)) + 0")

    def _select(
        self, connection: Connection, query: Any, count: int, among: list[int] | None, order: str
    ) -> list[tuple[float, int]]:
        where = "" if among is None else "WHERE id = ANY(:among)"
        rows = connection.execute(
            text(
                f"SELECT -(embedding <#> CAST(:query AS halfvec)) AS score, id"
                f" FROM {self._table} {where} ORDER BY {order} LIMIT :count"
            ),
            {"query": _literal(query), "count": count, **({} if among is None else {"among": among})},
        ).all()
        return sorted(((row.score, row.id) for row in rows), key=lambda row: (-row[0], row[1]))

    def ids(self) -> Ids:
        with self._engine.connect() as connection:
            rows = connection.execute(text(f"SELECT id FROM {self._table} ORDER BY id")).scalars().all()
        return np.asarray(rows, dtype=np.int64)

    def flush(self) -> None:
        """Nothing to do: every change was committed."""

    def drop(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(f"DROP TABLE IF EXISTS {self._table}"))


def _literal(vector: Any) -> str:
    return HalfVector(vector).to_text()


def _check_version(connection: Connection) -> None:
    version = connection.execute(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")).scalar_one()
    if tuple(int(part) for part in version.split(".")[:3]) < _OLDEST:
        raise VectorIndexError(f"pgvector {version}: expected {'.'.join(map(str, _OLDEST))} or newer")
