"""A benchmark small enough to read, over real parts."""

import json
from pathlib import Path

import pytest

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
