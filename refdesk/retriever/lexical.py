"""Full-text search in SQL: BM25 through FTS5 on SQLite, ts_rank_cd over a tsvector on PostgreSQL.

It finds what an embedder blurs: names, numbers, identifiers. Any of the question's words may match.

BM25 weighs a word by how many rows of its table have it. So on SQLite every collection has a table of its own,
which holds exactly what is searchable: what others store, or what is on its way, changes no rank. PostgreSQL's
rank looks at one chunk alone, and its column keeps itself.
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

# Without content: `chunk` has the texts, which are given again to remove a row.
_CREATE = "CREATE VIRTUAL TABLE {table} USING fts5(heading, text, content='', tokenize='porter unicode61')"
_DROP = "DROP TABLE IF EXISTS {table}"
_ADD = """
INSERT INTO {table} (rowid, heading, text)
SELECT id, heading, text FROM chunk WHERE document_id = :document
"""
_REMOVE = """
INSERT INTO {table} ({table}, rowid, heading, text)
SELECT 'delete', id, heading, text FROM chunk WHERE document_id = :document
"""
_PURGE = "INSERT INTO {table} ({table}) VALUES ('optimize')"
_FTS5 = """
SELECT chunk.id FROM {table} JOIN chunk ON chunk.id = {table}.rowid
WHERE {table} MATCH :query {only}
ORDER BY bm25({table}), chunk.id LIMIT :k
"""
_TSVECTOR = """
SELECT chunk.id, ts_rank_cd(chunk.lexemes, query, 1) AS score
FROM chunk JOIN document ON document.id = chunk.document_id,
     websearch_to_tsquery('english', :query) AS query
WHERE chunk.lexemes @@ query AND document.collection_id = :collection AND document.ready {only}
ORDER BY score DESC, chunk.id LIMIT :k
"""


def create_words(connection: Connection, collection_id: str) -> None:
    """Make room for the words of a new collection."""
    _on_sqlite(connection, _CREATE, collection_id)


def drop_words(connection: Connection, collection_id: str) -> None:
    """Remove the words of a collection; nothing happens when they are gone already."""
    _on_sqlite(connection, _DROP, collection_id)


def add_words(connection: Connection, collection_id: str, document_id: str) -> None:
    """Have a document found by the words of its chunks."""
    _on_sqlite(connection, _ADD, collection_id, document=document_id)


def remove_words(connection: Connection, collection_id: str, document_id: str) -> None:
    """Undo `add_words`, while the chunks are there still."""
    _on_sqlite(connection, _REMOVE, collection_id, document=document_id)


def purge_words(connection: Connection, collection_id: str) -> None:
    """Have removed words gone from the file too: FTS5 only marks them until their segment is written anew.

    All words of the collection are: half a second for 10,000 chunks.
    """
    _on_sqlite(connection, _PURGE, collection_id)


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
        only = f"AND chunk.document_id IN ({', '.join(':' + name for name in parameters)})"
    sqlite = connection.dialect.name == "sqlite"
    query = " OR ".join(f'"{word}"' if sqlite else word for word in words)
    statement = text((_FTS5 if sqlite else _TSVECTOR).format(table=_table(collection_id), only=only))
    rows = connection.execute(statement, {"query": query, "collection": collection_id, "k": k, **parameters})
    return [row.id for row in rows]


def _on_sqlite(connection: Connection, statement: str, collection_id: str, **parameters: str) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(text(statement.format(table=_table(collection_id))), parameters)


def _table(collection_id: str) -> str:
    return f"chunk_fts_{collection_id}"
