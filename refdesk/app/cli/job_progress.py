"""A job that a command waits for, with a progress bar, and what became of it."""

import time

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from refdesk.app.build import Desk
from refdesk.app.cli.output import notes
from refdesk.app.jobs import Job, cancel_job, get_job


def watch(desk: Desk, job_id: str) -> Job:
    """Wait for the end of a job; interrupted, it is cancelled."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=notes) as progress:
        bar = progress.add_task("waiting", total=None)
        try:
            while not (job := get_job(desk.engine, job_id)).finished:
                progress.update(bar, description=job.stage, completed=job.done, total=max(job.total, 1))
                time.sleep(0.1)
        except KeyboardInterrupt:
            cancel_job(desk.engine, job_id)
            raise
        progress.update(bar, description=job.state, completed=max(job.done, 1), total=max(job.total, 1))
    return job


def tell(job: Job) -> None:
    """How many of its documents came to what, and why some failed."""
    counts: dict[str, int] = {}
    for item in job.items:
        counts[item.state] = counts.get(item.state, 0) + 1
        if item.state == "failed":
            notes.print(f"{item.source_id}: {item.error}", style="red", markup=False)
    seconds = (job.finished_at or 0) - job.created_at
    click.echo(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) + f" in {seconds:.1f} s")
