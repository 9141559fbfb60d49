"""The default embedder: questions of any length, and which weights it has."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from refdesk.retriever.embedder import Embedder, TextTooLong, _default_model

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


def test_the_fingerprint_is_that_of_the_weights_whatever_they_are_called(
    embedder: Embedder, tmp_path: Path
) -> None:
    model = SentenceTransformer(str(_default_model()), local_files_only=True)
    model.save(str(tmp_path / "renamed"))
    assert Embedder(str(tmp_path / "renamed")).fingerprint == embedder.fingerprint
    for weight in model.parameters():
        weight.data += 0.01
    model.save(str(tmp_path / "retrained" / "all-MiniLM-L6-v2"))
    retrained = Embedder(str(tmp_path / "retrained" / "all-MiniLM-L6-v2"))
    assert retrained.name == embedder.name
    assert retrained.fingerprint != embedder.fingerprint
