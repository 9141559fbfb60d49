"""Files that are damaged or gone."""

from collections.abc import Callable
from pathlib import Path

import pytest


def assert_damage_is_named(file: Path, load: Callable[[], object], error: type[Exception]) -> None:
    """Whatever is wrong with `file`, `load` tells so with its name."""
    content = file.read_bytes()
    for spoilt in (content[: len(content) // 2], b"[]", b"\xff\xfe", b""):
        file.write_bytes(spoilt)
        with pytest.raises(error, match=file.name):
            load()
    file.unlink()
    with pytest.raises(error, match=file.name):
        load()
