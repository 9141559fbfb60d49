"""The default embedder: questions of any length, and which weights it has."""

import numpy as np
import pytest

from refdesk.retriever.embedder import Embedder, TextTooLong

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """all-MiniLM-L6-v2, loaded once."""
    return Embedder()


def test_a_question_longer_than_the_window_is_embedded_though_its_words_have_many_tokens(
    embedder: Embedder,
) -> None:
    question = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen " * 120
    assert embedder.count_tokens([question])[0] > 2 * embedder.max_tokens
    assert np.linalg.norm(embedder.embed_query(question)) == pytest.approx(1, abs=1e-3)


def test_a_passage_longer_than_the_window_is_refused(embedder: Embedder) -> None:
    with pytest.raises(TextTooLong, match="a text of 300 tokens: all-MiniLM-L6-v2 reads at most 254"):
        embedder.embed(["harbour " * 300])
