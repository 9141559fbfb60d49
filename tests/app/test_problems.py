"""Errors as they are told to clients."""

import pytest

from refdesk.app.problems import problem_of
from refdesk.retriever.embedder import EmbedderNotFound
from refdesk.retriever.index import VectorIndexError


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (EmbedderNotFound("embedder '/nowhere': no such folder"), "embedder-not-found"),
        (VectorIndexError("pgvector 0.5.1: expected 0.8.0 or newer"), "index-not-usable"),
    ],
)
def test_a_part_that_is_missing_is_told_as_what_it_is(error: Exception, slug: str) -> None:
    problem = problem_of(error)
    assert (problem.type, problem.status) == (f"urn:refdesk:problem:{slug}", 503)
    assert problem.detail == str(error)
