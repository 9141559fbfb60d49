"""A benchmark small enough to read, over real parts."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refdesk.app.build import Desk
from refdesk.app.run_files import RunFiles
from refdesk.app.settings import Settings
from refdesk.reader.engine import Engine
from refdesk.reader.model import ReaderModel
from tests.conftest import WordEmbedder
from tests.reader.conftest import tiny, tokenizer

__all__ = ["tiny", "tokenizer"]

ROWS = [
    {
        "id": "tower",
        "question": "When was the Harrow Tower finished?",
        "answers": ["1911", "in 1911"],
        "documents": [
            {
                "title": "Harrow Tower",
                "text": "The Harrow Tower was finished in 1911. It is 62 metres high.",
                "gold": True,
            },
            {"title": "Harrow Bridge", "text": "The Harrow Bridge was designed by Elin Marsh in 1875."},
            {"title": "Market", "text": "The market of Harrow opens on Saturdays at seven."},
        ],
    },
    {
        "id": "bridge",
        "question": "Who designed the Harrow Bridge?",
        "answers": ["Elin Marsh"],
        "documents": [
            {"title": "Market", "text": "The market of Harrow opens on Saturdays at seven."},
            {
                "title": "Harrow Bridge",
                "text": "The Harrow Bridge was designed by Elin Marsh in 1875.",
                "gold": True,
            },
        ],
    },
    {
        "id": "mayor",
        "question": "Who is the mayor of Harrow?",
        "unanswerable": True,
        "documents": [
            {"title": "Market", "text": "The market of Harrow opens on Saturdays at seven.", "gold": True}
        ],
    },
]


def jsonl(*rows: object) -> bytes:
    """Rows as a data set's content."""
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.fixture
def harrow() -> bytes:
    """Three questions, one of them without an answer."""
    return jsonl(*ROWS)


@pytest.fixture
def harrow_file(tmp_path: Path, harrow: bytes) -> Path:
    """The same as a file."""
    path = tmp_path / "harrow.jsonl"
    path.write_bytes(harrow)
    return path


class SmallDesk(Desk):
    """The service's own desk over small real models: a random reader of three layers, words for an embedder."""

    def __init__(self, settings: Settings, model: ReaderModel) -> None:
        super().__init__(settings)
        self._small = (model, Engine(model, kept=RunFiles(self.memories.folder, model)))
        self._words = WordEmbedder()

    @property
    def embedder(self) -> Any:
        """See WordEmbedder."""
        return self._words

    @property
    def reader(self) -> tuple[ReaderModel, Engine]:
        """The small model."""
        return self._small

    def close(self) -> None:
        """As the desk's, and the engine's."""
        super().close()
        self._small[1].close()


@pytest.fixture
def model(tiny: Callable[..., ReaderModel]) -> ReaderModel:
    """A random model with a window of 1,024 tokens."""
    return tiny("llama", 1024)


@pytest.fixture
def desk(database_url: str, tmp_path: Path, model: ReaderModel) -> Iterator[SmallDesk]:
    """A desk over an empty database, once on SQLite and once on PostgreSQL."""
    desk = SmallDesk(Settings(data=tmp_path / "desk", database=database_url), model)
    yield desk
    desk.close()
