"""Reading the files of the data folder: JSON and JSON lines, gzipped, and gzipped archives."""

import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refdesk.eval.errors import MissingData


def read_text(path: Path) -> str:
    """The whole of a gzipped UTF-8 file. Raises MissingData when it is damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise MissingData(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """The value of a gzipped JSON file. Raises MissingData when it is damaged."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise MissingData(f"{path} is not JSON: {error}") from error


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values of a gzipped file of one JSON value a line. Raises MissingData when it is damaged."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise MissingData(f"{path}, line {number}: not JSON: {error}") from error


def read_tar(path: Path) -> dict[str, str]:
    """The UTF-8 files of a gzipped tar archive, by their names. Raises MissingData when it is damaged."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
            return {name: file.read().decode("utf-8") for name, file in files.items() if file}
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise MissingData(f"{path} cannot be read: {error}") from error
