"""Jobs as rows: what is to be done, who is doing it, how far it is. The API reads what is written here."""

import hashlib
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, and_, func, insert, select, update

from refdesk import schema
from refdesk.database import transaction
from refdesk.retriever.documents import withdraw

LEASE_S = 30.0
# A job that stops this often without getting any further is given up.
MAX_ATTEMPTS = 25
FINISHED = ("succeeded", "failed", "cancelled")

_job, _item = schema.job.c, schema.job_item.c


class UnknownJob(Exception):
    """No job has this id."""


class LeaseLost(Exception):
    """Somebody else is doing this job now; whoever gets this stops without a trace."""


@dataclass(frozen=True)
class JobItem:
    """One document of a job. `state`: queued, done, unchanged, superseded (a version of it that came later was
    searchable first), rejected, failed or cancelled."""

    source_id: str
    document_id: str | None
    state: str
    error: str | None


@dataclass(frozen=True)
class Job:
    """One job. `state`: queued, running, succeeded, failed or cancelled. `done` of `total`: characters of its
    documents (`ingest`), tokens of them (`memory`; 0 until they are counted), or questions (`evaluate`, which has
    neither documents nor a collection)."""

    id: str
    kind: str
    collection: str | None
    state: str
    stage: str
    done: int
    total: int
    error: str | None
    attempts: int
    cancel_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    items: list[JobItem]

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


def add_job(connection: Connection, kind: str, collection_id: str | None, items: list[JobItem], total: int) -> str:
    """Queue a job within the caller's transaction; returns its id."""
    job_id = uuid.uuid4().hex
    connection.execute(
        insert(schema.job).values(
            id=job_id,
            kind=kind,
            collection_id=collection_id,
            state="queued",
            stage="waiting",
            done=0,
            total=total,
            attempts=0,
            cancel_requested=False,
            created_at=time.time(),
        )
    )
    rows = [{"job_id": job_id, "position": position, **vars(item)} for position, item in enumerate(items)]
    if rows:
        connection.execute(insert(schema.job_item), rows)
    return job_id


def get_job(engine: Engine, job_id: str) -> Job:
    """Raises UnknownJob."""
    jobs = _read(engine, _job.id == job_id, limit=1)
    if not jobs:
        raise UnknownJob(f"unknown job {job_id!r}")
    return jobs[0]


def list_jobs(engine: Engine, limit: int) -> list[Job]:
    """The newest jobs first."""
    return _read(engine, None, limit=limit)


def _read(engine: Engine, condition: Any, *, limit: int) -> list[Job]:
    statement = (
        select(schema.job, schema.collection.c.name.label("collection"))
        .join_from(schema.job, schema.collection, isouter=True)
        .order_by(_job.created_at.desc())
        .limit(limit)
    )
    if condition is not None:
        statement = statement.where(condition)
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
        items: dict[str, list[JobItem]] = {row.id: [] for row in rows}
        for item in connection.execute(
            select(schema.job_item).where(_item.job_id.in_(items)).order_by(_item.job_id, _item.position)
        ):
            items[item.job_id].append(JobItem(item.source_id, item.document_id, item.state, item.error))
    names = [name for name in Job.__dataclass_fields__ if name != "items"]
    return [Job(**{name: getattr(row, name) for name in names}, items=items[row.id]) for row in rows]


def cancel_job(engine: Engine, job_id: str) -> Job:
    """Ask a job to stop: at once when it waits, at its next commit when it runs, never when it is over.

    Raises:
        UnknownJob: no such job.
    """
    get_job(engine, job_id)
    with transaction(engine) as connection:
        connection.execute(
            update(schema.job).where(_job.id == job_id, _job.state.not_in(FINISHED)).values(cancel_requested=True)
        )
        if connection.execute(select(_job.state).where(_job.id == job_id)).scalar_one() == "queued":
            finish(connection, job_id, stopped=True)
    return get_job(engine, job_id)


def worker_name() -> str:
    """A lease owner's name; it tells others on this host whether its process still lives."""
    return f"{_host()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def _host() -> str:
    """Where process ids are counted: the same for two processes only if each sees the other's."""
    facts = [socket.gethostname()]
    with suppress(OSError):  # elsewhere than on Linux there are no containers to tell apart
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def claim(engine: Engine, owner: str, kind: str) -> str | None:
    """Take the oldest job of this kind that waits, or whose worker is gone; returns its id."""
    with transaction(engine) as connection:
        now = time.time()
        rows = connection.execute(
            select(_job.id, _job.state, _job.lease_owner, _job.lease_until, _job.attempts)
            .where(_job.kind == kind, _job.state.in_(("queued", "running")))
            .order_by(_job.created_at)
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            if row.state == "running" and row.lease_until > now and not _is_dead(row.lease_owner, owner):
                continue
            connection.execute(
                update(schema.job)
                .where(_job.id == row.id)
                .values(
                    state="running",
                    lease_owner=owner,
                    lease_until=now + LEASE_S,
                    attempts=_job.attempts + 1,
                    started_at=func.coalesce(_job.started_at, now),
                )
            )
            if row.attempts >= MAX_ATTEMPTS:
                finish(connection, row.id, error=f"stopped {row.attempts} times without getting further")
                continue
            return str(row.id)
    return None


def _is_dead(owner: str, me: str) -> bool:
    """Whether the lease's owner was a process of this host that lives no more."""
    host, pid, _ = owner.split("/")
    my_host, my_pid, _ = me.split("/")
    if host != my_host:
        return False
    if pid == my_pid:
        return owner != me  # an earlier process that had our number
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def renew(engine: Engine, job_id: str, owner: str, *, stage: str | None = None, done: int | None = None) -> bool:
    """Hold the lease longer and note the progress; returns whether cancelling was asked for.

    Raises:
        LeaseLost: the job is not ours any more.
    """
    values: dict[str, Any] = {"lease_until": time.time() + LEASE_S}
    if stage is not None:
        values["stage"] = stage
    if done is not None:
        values["done"] = done
    mine = and_(_job.id == job_id, _job.lease_owner == owner, _job.state == "running")
    with transaction(engine) as connection:
        if done is not None:  # progress: the count of vain attempts starts anew
            connection.execute(update(schema.job).where(mine, _job.done < done).values(attempts=1))
        if connection.execute(update(schema.job).where(mine).values(**values)).rowcount != 1:
            raise LeaseLost(job_id)
        return bool(connection.execute(select(_job.cancel_requested).where(_job.id == job_id)).scalar_one())


def release(engine: Engine, job_id: str, owner: str) -> None:
    """Put a job back for whoever comes next; what it has committed so far stays."""
    with transaction(engine) as connection:
        connection.execute(
            update(schema.job)
            .where(_job.id == job_id, _job.lease_owner == owner, _job.state == "running")
            .values(state="queued", stage="waiting", lease_owner=None, lease_until=None)
        )


def set_total(engine: Engine, job_id: str, total: int) -> None:
    """Note how much there is to do, where that was not known when the job was queued."""
    with transaction(engine) as connection:
        connection.execute(update(schema.job).where(_job.id == job_id).values(total=total))


def set_item(connection: Connection, job_id: str, source_id: str, state: str, error: str | None = None) -> None:
    """Note what became of one document of a job."""
    connection.execute(
        update(schema.job_item)
        .where(_item.job_id == job_id, _item.source_id == source_id)
        .values(state=state, error=error)
    )


def finish(connection: Connection, job_id: str, *, error: str | None = None, stopped: bool = False) -> None:
    """Close a job: what is still queued in it is dropped, and its state says how it went. `stopped`: before its
    end, because somebody asked for it."""
    left = connection.execute(
        select(_item.source_id, _item.document_id).where(_item.job_id == job_id, _item.state == "queued")
    ).all()
    for source_id, document_id in left:
        withdraw(connection, document_id)
        set_item(connection, job_id, source_id, "cancelled" if stopped else "failed", error)
    states = connection.execute(select(_item.state).where(_item.job_id == job_id)).scalars().all()
    failed = states.count("failed")
    # Asked for too late, when every document was done already: then it has succeeded.
    cancelled = stopped and (left or not states)
    state = "cancelled" if cancelled else "failed" if failed or error else "succeeded"
    if failed and error is None:
        error = f"{failed} document{'s' if failed > 1 else ''} failed"
    values: dict[str, Any] = {"state": state, "stage": "finished", "finished_at": time.time(), "error": error}
    if state == "succeeded":
        values["done"] = schema.job.c.total
    connection.execute(
        update(schema.job).where(_job.id == job_id).values(lease_owner=None, lease_until=None, **values)
    )
