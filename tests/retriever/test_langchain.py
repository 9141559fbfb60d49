"""langchain-core's own suite for vector stores, on both databases and indexes."""

from collections.abc import Iterator

import pytest
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from refdesk.retriever.store import ChunkStore


class TestChunkStore(VectorStoreIntegrationTests):
    """Every promise that langchain-core makes of a vector store."""

    @pytest.fixture
    def vectorstore(self, store: ChunkStore) -> Iterator[VectorStore]:
        yield store
