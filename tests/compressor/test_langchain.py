"""A strategy behind langchain-core's interface."""

from langchain_core.documents import Document

from refdesk.compressor.langchain import LangChainCompressor
from refdesk.compressor.perception import PerceptionCompressor, PerceptionOptions
from tests.compressor.worlds import World, tools


def test_documents_come_back_shorter_best_first_and_name_what_stayed() -> None:
    texts = ["The fox lives in the forest.", "The hen sits on the farm."]
    documents = [
        Document(id=str(index), page_content=text, metadata={"page": index}) for index, text in enumerate(texts)
    ]
    compressor = PerceptionCompressor(tools(), PerceptionOptions(segment=4))
    shorter = LangChainCompressor(compressor=compressor, budget=8).compress_documents(
        documents, "where is the hen?"
    )
    expected = compressor.compress("where is the hen?", texts, 8)
    assert [document.page_content for document in shorter] == expected.apply(texts)
    assert [document.id for document in shorter] == [str(index) for index in expected.order]
    for document in shorter:
        original = texts[document.metadata["page"]]
        assert "".join(original[a:b] for a, b in document.metadata["kept"]) == document.page_content
    assert [document.page_content for document in documents] == texts


def test_a_document_whose_title_is_none_is_ranked_as_one_without() -> None:
    ranked = []
    for metadata in ({}, {"title": None}):
        world = World()
        compressor = PerceptionCompressor(tools(world), PerceptionOptions())
        documents = [Document(page_content=text, metadata=metadata) for text in ("The fox.", "The hen.")]
        LangChainCompressor(compressor=compressor, budget=8).compress_documents(documents, "where is the hen?")
        ranked.append(world.ranked)
    assert ranked[0] == ranked[1] != []
