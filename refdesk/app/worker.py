"""The worker: a thread that does the jobs of one kind, one after the other."""

import threading
from collections.abc import Callable
from typing import Protocol

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from refdesk.app.jobs import LEASE_S, Job, LeaseLost, claim, finish, get_job, release, renew, worker_name
from refdesk.database import transaction

log = structlog.get_logger()

_POLL_S = 1.0

Progress = Callable[[str, int], None]
"""Called between commits with the stage and how much is done; raises LeaseLost, Cancelled or Stopping."""


class Cancelled(Exception):
    """Somebody asked for the job to stop."""


class Stopping(Exception):
    """The process goes down: the job is left as it is, to be gone on with."""


class Work(Protocol):
    """One kind of job. `told`: errors whose message is for whoever asked for the job."""

    @property
    def kind(self) -> str:
        """The kind of its jobs."""

    @property
    def told(self) -> tuple[type[Exception], ...]:
        """See above."""

    def heal(self) -> None:
        """Put right what earlier processes left half-done."""

    def do(self, job: Job, progress: Progress) -> None:
        """Do what is left of a job; what is committed when `progress` raises is not done again."""


class Worker:
    """Does one kind of work until closed; several workers, also of several processes, may share a database."""

    def __init__(self, engine: Engine, work: Work) -> None:
        self._engine = engine
        self._work = work
        self._name = worker_name()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"jobs-{work.kind}", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier process left undone first."""
        self._work.heal()
        self._thread.start()

    def wake(self) -> None:
        """A job was queued: look now rather than at the next poll."""
        self._wake.set()

    def close(self) -> None:
        """Stop at the next commit; the job in hand goes on when a worker starts again."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self.run_one():
                    continue
            except Exception:
                log.exception("job_worker_failed")  # a database that is away comes back; the thread stays
            self._wake.wait(_POLL_S)
            self._wake.clear()

    def run_one(self) -> bool:
        """Do the next job, if there is one."""
        job_id = claim(self._engine, self._name, self._work.kind)
        if job_id is None:
            return False
        beat = _Heartbeat(self._engine, job_id, self._name)
        try:
            self._finish(get_job(self._engine, job_id))
        except LeaseLost:
            log.warning("job_lease_lost", job=job_id)
        except Stopping:
            release(self._engine, job_id, self._name)
        finally:
            beat.close()
        return True

    def _finish(self, job: Job) -> None:
        """Do the job, and note how it ended."""
        error, stopped = None, False

        def progress(stage: str, done: int) -> None:
            if renew(self._engine, job.id, self._name, stage=stage, done=done):
                raise Cancelled
            if self._stop.is_set():
                raise Stopping

        try:
            self._work.do(job, progress)
        except Cancelled:
            stopped = True
        except self._work.told as failure:
            error = str(failure)
        except (LeaseLost, Stopping, SQLAlchemyError):
            raise
        except Exception as failure:
            log.exception("job_failed", job=job.id)
            error = f"internal error: {type(failure).__name__}"
        renew(self._engine, job.id, self._name)  # whoever has lost the lease writes nothing
        with transaction(self._engine) as connection:
            finish(connection, job.id, error=error, stopped=stopped)


class _Heartbeat:
    """Holds a job's lease while a single step takes longer than the lease."""

    def __init__(self, engine: Engine, job_id: str, owner: str) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(engine, job_id, owner), daemon=True)
        self._thread.start()

    def _beat(self, engine: Engine, job_id: str, owner: str) -> None:
        while not self._over.wait(LEASE_S / 3):
            try:
                renew(engine, job_id, owner)
            except (LeaseLost, SQLAlchemyError):
                return  # the work itself finds out at its next commit

    def close(self) -> None:
        self._over.set()
        self._thread.join()
