"""A service that is killed in the middle of its work has lost nothing after the next start."""

from collections.abc import Callable

import pytest

from bench.kills import survive
from bench.service import Service

pytestmark = pytest.mark.models


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_killed_at_random_moments_every_document_is_whole_and_none_twice(
    store: str, make_service: Callable[..., Service], request: pytest.FixtureRequest
) -> None:
    database = "" if store == "sqlite" else str(request.getfixturevalue("fresh_postgres_url"))
    met, documents = survive(make_service(database=database), kills=3, seed=7)
    assert met > 0
    assert documents >= 10
