"""Adapters by name: the one that is shipped, and those that were trained here."""

import hashlib
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from refdesk import schema
from refdesk.app.jobs import FINISHED, add_job, finish
from refdesk.craft.card import CARD, read_card
from refdesk.craft.errors import AdapterBusy, AdapterExists, CraftError, InvalidLessons, InvalidRecipe
from refdesk.craft.whole_folder import whole_folder
from refdesk.database import transaction
from refdesk.reader.errors import AdapterNotFound

SHIPPED = "craft"
"""The name of the adapter for the default model that comes with Refdesk."""

NONE = "none"
"""In place of a name: the model as it is."""

AUTO = "auto"
"""The shipped one where it fits the model, else none."""

FILES = (CARD, "adapter_config.json", "adapter_model.safetensors")
"""What an adapter's folder has."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_WEIGHTS = Path(__file__).parent.parent / "weights"

_adapter, _job = schema.adapter.c, schema.job.c


@dataclass(frozen=True)
class AdapterEntry:
    """`state`: of the job that trains it; `ready` when it can be used. `settings`: what was asked for. `card`:
    what it was made of; None until it is ready. `job_id`, `created_at`: None for the one that is shipped."""

    name: str
    state: str
    stage: str
    done: int
    total: int
    error: str | None
    settings: Mapping[str, Any]
    card: Mapping[str, Any] | None
    job_id: str | None
    created_at: float | None

    @property
    def ready(self) -> bool:
        """Whether it can be used."""
        return self.card is not None


def shipped_adapter() -> Path | None:
    """The folder of the shipped adapter, if there is one."""
    folder = _WEIGHTS / SHIPPED
    return folder if (folder / "card.json").is_file() else None


def list_adapters(engine: Engine) -> list[AdapterEntry]:
    """The shipped one, then the newest first."""
    return [*_shipped(), *_read(engine, None)]


def get_adapter(engine: Engine, name: str) -> AdapterEntry:
    """Raises AdapterNotFound, which names those that exist."""
    found = [entry for entry in _shipped() if entry.name == name] or _read(engine, _adapter.name == name)
    if not found:
        known = ", ".join(entry.name for entry in list_adapters(engine)) or "none exists yet"
        raise AdapterNotFound(f"unknown adapter {name!r}; known: {known}")
    return found[0]


def adapter_of_job(engine: Engine, job_id: str) -> AdapterEntry:
    """The adapter that a job trains. Raises AdapterNotFound."""
    found = _read(engine, _adapter.job_id == job_id)
    if not found:
        raise AdapterNotFound(f"job {job_id!r} trains no adapter")
    return found[0]


def check_name(name: str) -> None:
    """Raise InvalidRecipe for a name that cannot be, AdapterExists for that of the shipped one."""
    if not _NAME.fullmatch(name) or name in (NONE, AUTO):
        raise InvalidRecipe(
            f"adapter name {name!r}: expected 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit,"
            f" and neither {NONE!r} nor {AUTO!r}"
        )
    if name == SHIPPED:
        raise AdapterExists(f"adapter {name!r} comes with Refdesk; choose another name")


def find_adapter(engine: Engine, name: str) -> AdapterEntry | None:
    """The adapter of this name that was made here, or None."""
    return next(iter(_read(engine, _adapter.name == name)), None)


def add_adapter(connection: Connection, job_id: str, name: str, settings: Mapping[str, Any]) -> None:
    """Note an adapter within the caller's transaction, which adds its job too. Raises AdapterExists."""
    try:
        connection.execute(insert(schema.adapter).values(name=name, job_id=job_id, settings=dict(settings)))
    except IntegrityError:
        raise AdapterExists(f"adapter {name!r} exists already; delete it, or choose another name") from None


def adopt_adapter(engine: Engine, name: str, folder: Path, place: Path) -> AdapterEntry:
    """Take in an adapter that was trained elsewhere: its `folder` is copied to `place`. It stands in the list as
    one whose training is over.

    Raises:
        InvalidLessons: no card can be read, or it says no result.
        AdapterExists: the name is taken.
        CraftError: the files cannot be copied.
    """
    card = read_card(folder / CARD)
    loss = None
    with suppress(KeyError, TypeError):
        loss = card["result"]["loss"]["all"]
    if not isinstance(loss, int | float) or not isfinite(loss):
        raise InvalidLessons(
            f"{folder / CARD}: result.loss.all is {loss!r}; expected the number that training wrote"
        )
    try:
        with transaction(engine) as connection:  # files before it ends: an adapter in the list is whole
            job = add_job(connection, "craft", None, [], 1)
            add_adapter(connection, job, name, {})
            finish(connection, job)
            connection.execute(update(schema.adapter).where(_adapter.name == name).values(card=card))
            with whole_folder(place) as part:
                for file in FILES:
                    shutil.copy(folder / file, part / file)
    except OSError as error:
        raise CraftError(f"adapter {name!r} cannot be copied to {place}: {error.strerror}") from error
    return get_adapter(engine, name)


def begin_again(connection: Connection, entry: AdapterEntry, job_id: str) -> None:
    """Give an adapter whose training failed or was cancelled another job."""
    connection.execute(update(schema.adapter).where(_adapter.name == entry.name).values(job_id=job_id))
    connection.execute(delete(schema.job).where(_job.id == entry.job_id))


def note_card(engine: Engine, job_id: str, card: Mapping[str, Any]) -> None:
    """The adapter that this job trains is ready."""
    with transaction(engine) as connection:
        connection.execute(update(schema.adapter).where(_adapter.job_id == job_id).values(card=dict(card)))


def delete_adapter(engine: Engine, name: str, folders: list[Path]) -> AdapterEntry:
    """Remove an adapter with its job and its folders; returns what it was.

    Raises:
        AdapterNotFound: no such adapter.
        AdapterBusy: it is being trained, it is shipped, or collections are asked with it.
    """
    entry = get_adapter(engine, name)
    if entry.job_id is None:
        raise AdapterBusy(f"adapter {name!r} comes with Refdesk; ask with adapter {NONE!r} to do without it")
    if entry.state not in FINISHED:
        raise AdapterBusy(f"adapter {name!r} is {entry.state}; cancel job {entry.job_id} first")
    with transaction(engine) as connection:
        users = connection.execute(
            select(schema.collection.c.name).where(schema.collection.c.adapter == name).order_by("name")
        ).scalars()
        if named := list(users):
            raise AdapterBusy(f"adapter {name!r} is that of collection {named[0]!r}; give that another one first")
        for folder in folders:  # before the row: what is left half-way can be deleted again
            shutil.rmtree(folder, ignore_errors=True)
        connection.execute(delete(schema.job).where(_job.id == entry.job_id))
    return entry


def craft_folder(data: Path, entry: AdapterEntry) -> Path:
    """Where an adapter in work keeps its lessons and its checkpoint. Other settings never find those of these."""
    digest = hashlib.sha256(msgspec.json.encode(entry.settings, order="deterministic")).hexdigest()[:8]
    return data / "craft" / f"{entry.name}@{digest}"


def craft_folders(data: Path, name: str) -> list[Path]:
    """All that work on an adapter of this name may have left."""
    return sorted((data / "craft").glob(f"{name}@*"))


def _shipped() -> list[AdapterEntry]:
    folder = shipped_adapter()
    if folder is None:
        return []
    card = read_card(folder / "card.json")
    return [AdapterEntry(SHIPPED, "succeeded", "finished", 1, 1, None, {}, card, None, None)]


def _read(engine: Engine, condition: Any) -> list[AdapterEntry]:
    columns = (_job.state, _job.stage, _job.done, _job.total, _job.error, _job.created_at)
    statement = (
        select(schema.adapter, *columns)
        .join_from(schema.adapter, schema.job)
        .order_by(_job.created_at.desc(), _adapter.name)
    )
    if condition is not None:
        statement = statement.where(condition)
    with engine.connect() as connection:
        return [AdapterEntry(**row._mapping) for row in connection.execute(statement)]
