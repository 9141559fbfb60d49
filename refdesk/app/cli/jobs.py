"""`refdesk jobs`: what was done, is being done, and stopping it."""

import click

from refdesk.app.cli.output import as_json, list_unless_told, open_desk, print_json
from refdesk.app.jobs import Job, cancel_job, get_job, list_jobs
from refdesk.app.rest.messages import job_message
from refdesk.app.settings import Settings


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@as_json
@click.pass_context
def jobs(context: click.Context, /, limit: int, as_json: bool) -> None:
    """List, show and cancel jobs."""
    list_unless_told(context, list_newest)


@jobs.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@as_json
@click.pass_obj
def list_newest(settings: Settings, limit: int, as_json: bool) -> None:
    """The newest jobs."""
    with open_desk(settings) as desk:
        found = list_jobs(desk.engine, limit)
    if as_json:
        print_json([job_message(job) for job in found])
        return
    for job in found:
        _print(job)


@jobs.command()
@click.argument("job_id")
@as_json
@click.pass_obj
def show(settings: Settings, job_id: str, as_json: bool) -> None:
    """One job with its documents."""
    with open_desk(settings) as desk:
        job = get_job(desk.engine, job_id)
    if as_json:
        print_json(job_message(job))
        return
    _print(job)
    for item in job.items:
        click.echo(f"  {item.state:10} {item.source_id}" + (f": {item.error}" if item.error else ""))


@jobs.command()
@click.argument("job_id")
@click.pass_obj
def cancel(settings: Settings, job_id: str) -> None:
    """Ask a job to stop: documents that are done stay, the others leave nothing behind."""
    with open_desk(settings) as desk:
        job = cancel_job(desk.engine, job_id)
    click.echo(job.state if job.finished else "cancelling")


def _print(job: Job) -> None:
    share = 100 * job.done // max(job.total, 1) if not job.finished else 100
    click.echo(
        f"{job.id}  {job.kind:8}  {job.state:9}  {job.stage:8} {share:3} %  "
        + (f"{len(job.items)} documents  {job.collection}" if job.collection else f"{job.total} questions")
        + (f"  {job.error}" if job.error else "")
    )
