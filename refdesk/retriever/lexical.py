"""Full-text search in SQL: BM25 through FTS5 on SQLite, ts_rank_cd over a tsvector on PostgreSQL.

It finds what an embedder blurs: names, numbers, identifiers. Any of the question's words may match.
"""

import re
from collections.abc import Sequence

from sqlalchemy import Connection, text

_WORD = re.compile(r"\w+")
# PostgreSQL's dictionary drops these by itself; FTS5 would look up a list of nearly every chunk for each.
_STOP_WORDS = frozenset(
    """
    a an and are as at be been but by can could did do does for from had has have how i in is it its me my
    of on or our shall should so that the their them there these they this those to was we were what when
    where which who whom whose why will with would you your
    """.split()  # noqa: SIM905 - read as prose
)

_FTS5 = """
SELECT chunk.id AS id, -bm25(chunk_fts) AS score
FROM chunk_fts JOIN chunk ON chunk.id = chunk_fts.rowid JOIN document ON document.id = chunk.document_id
WHERE chunk_fts MATCH :query AND document.collection_id = :collection AND document.ready {only}
ORDER BY bm25(chunk_fts), chunk.id LIMIT :k
"""
_TSVECTOR = """
SELECT chunk.id AS id, ts_rank_cd(chunk.lexemes, query, 1) AS score
FROM chunk JOIN document ON document.id = chunk.document_id,
     websearch_to_tsquery('english', :query) AS query
WHERE chunk.lexemes @@ query AND document.collection_id = :collection AND document.ready {only}
ORDER BY score DESC, chunk.id LIMIT :k
"""


def lexical_search(
    connection: Connection, collection_id: str, question: str, k: int, documents: Sequence[str] | None = None
) -> list[int]:
    """Ids of at most `k` chunks that share words with the question, best first.

    `documents`: document ids to restrict the search to. A question of stop words alone finds nothing.
    """
    words = list(dict.fromkeys(_WORD.findall(question.lower())))
    words = [word for word in words if word not in _STOP_WORDS]
    if not words or (documents is not None and not documents):
        return []
    only, parameters = "", {}
    if documents is not None:
        parameters = {f"document_{i}": document for i, document in enumerate(documents)}
        only = f"AND document.id IN ({', '.join(':' + name for name in parameters)})"
    sqlite = connection.dialect.name == "sqlite"
    query = " OR ".join(f'"{word}"' if sqlite else word for word in words)
    statement = text((_FTS5 if sqlite else _TSVECTOR).format(only=only))
    rows = connection.execute(statement, {"query": query, "collection": collection_id, "k": k, **parameters})
    return [row.id for row in rows]
