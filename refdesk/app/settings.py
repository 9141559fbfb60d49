"""Settings: one frozen value, read from the environment once, passed to who needs it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

PREFIX = "REFDESK_"


class InvalidSetting(Exception):
    """A setting that is unknown or has a value that cannot be used."""


def _default_data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "refdesk"


@dataclass(frozen=True)
class Settings:
    """Each field is set by `REFDESK_<FIELD>`; docs/configuration.md describes them.

    Raises:
        InvalidSetting: on construction, naming the setting, its value and what was expected.
    """

    data: Path
    database: str = ""  # empty: SQLite in the data folder
    index: str = "auto"  # auto: pgvector where the database has it, else faiss
    embedder: str = ""  # empty: the default that comes from PyPI
    model: str = ""  # likewise
    dtype: str = "auto"
    shared_data: str = "../shared/data"  # benchmark data: a folder, or hub:OWNER/NAME
    host: str = "127.0.0.1"
    port: int = 8040
    max_upload_mb: int = 64
    adapter: str = "auto"  # auto: the shipped one where it fits the model; none: the model as it is; or a name
    kv_memory_mb: int = 1024  # the ceiling of what all requests together hold of what they have read
    log: str = "info"

    def __post_init__(self) -> None:
        _one_of("index", self.index, ("auto", "faiss", "pgvector"))
        _one_of("dtype", self.dtype, ("auto", "bfloat16", "float32"))
        _one_of("log", self.log, ("debug", "info", "warning", "error"))
        if not 0 <= self.port <= 65535:
            raise InvalidSetting(f"{PREFIX}PORT {self.port}: expected 0 to 65535")
        if not 1 <= self.max_upload_mb <= 4096:
            raise InvalidSetting(f"{PREFIX}MAX_UPLOAD_MB {self.max_upload_mb}: expected 1 to 4096")
        if not 1 <= self.kv_memory_mb <= 2**20:
            raise InvalidSetting(f"{PREFIX}KV_MEMORY_MB {self.kv_memory_mb}: expected 1 to {2**20}")
        if self.index == "pgvector" and not self.database.startswith("postgres"):
            raise InvalidSetting(f"{PREFIX}INDEX pgvector: needs a postgresql:// URL in {PREFIX}DATABASE")

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the truth."""
        return self.database or f"sqlite:///{self.data / 'refdesk.db'}"

    @property
    def benchmarks(self) -> str:
        """Where the benchmark data lie, whatever folder the process is in."""
        return self.shared_data if self.shared_data.startswith("hub:") else str(Path(self.shared_data).absolute())

    @property
    def max_upload_bytes(self) -> int:
        """The largest file that is taken in."""
        return self.max_upload_mb * 2**20


def read_settings(environment: Mapping[str, str], **overrides: Any) -> Settings:
    """Settings from `REFDESK_*` variables; overrides that are not None win.

    Raises:
        InvalidSetting: an unknown `REFDESK_*` name, or a bad value.
    """
    known = {field.name: field.type for field in fields(Settings)}
    values: dict[str, Any] = {}
    for name, value in environment.items():
        if not name.startswith(PREFIX):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field not in known:
            raise InvalidSetting(f"{name}: unknown setting; known: {', '.join(PREFIX + n.upper() for n in known)}")
        values[field] = _integer(name, value) if known[field] is int else value
    values.update({name: value for name, value in overrides.items() if value is not None})
    data = Path(values.pop("data", None) or _default_data()).expanduser().resolve()
    return replace(Settings(data=data), **values)


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidSetting(f"{name} {value!r}: expected a whole number") from None


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidSetting(f"{PREFIX}{name.upper()} {value!r}: expected one of {', '.join(choices)}")
