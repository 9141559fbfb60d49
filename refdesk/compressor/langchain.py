"""A strategy as langchain-core wants document compressors."""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from refdesk.compressor.compressor import Compressor


class LangChainCompressor(BaseDocumentCompressor):
    """What stays of documents, `budget` tokens over all of them, ranked under the titles that their metadata have.
    Those that are left, best first, name there the character ranges `kept` of the text that they had."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    compressor: Compressor[Any]
    budget: int

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """See `Compressor.compress`."""
        texts = [document.page_content for document in documents]
        titles = [str(document.metadata.get("title") or "") for document in documents]
        compression = self.compressor.compress(query, texts, self.budget, titles)
        return [
            Document(
                id=documents[index].id, page_content=text, metadata={**documents[index].metadata, "kept": kept}
            )
            for index, text, kept in zip(
                compression.order, compression.apply(texts), compression.kept, strict=True
            )
        ]
