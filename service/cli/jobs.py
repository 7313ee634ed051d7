"""`emmdit jobs`: what a service has drawn, draws and will draw for you."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from service.cli.dead import PANEL, dead, drop, requeue
from service.cli.remote import LOCAL_URL, Exit, JsonOption, PatienceOption, UrlOption, refuse, remote

if TYPE_CHECKING:
    from service.client import Client, Job, JobStateName

PAGE = 100

jobs_app = typer.Typer(
    help="List, show, cancel and fetch your jobs on a service.",
    no_args_is_help=True,
    epilog="""
[bold]Examples[/]

[dim]# what is under way[/]
[cyan]emmdit jobs list --state running[/]

[dim]# a job's pictures, as soon as they are drawn[/]
[cyan]emmdit jobs fetch 23c0e7372fb088ae94339932f9f1a4ea --wait -o pictures/[/]

[dim]# call off everything that waits[/]
[cyan]emmdit jobs list --state queued --json | jq -r .id | xargs emmdit jobs cancel[/]

[dim]# what failed for good on this machine's emmdit serve, and once more[/]
[cyan]emmdit jobs dead[/]
[cyan]emmdit jobs requeue --all[/]

[bold]Exit codes:[/] 0 done; 1 the service says no: no such job, not done yet;
2 bad usage; 3 the service could not be reached or stayed busy past --patience;
130 interrupted.
""",
)

jobs_app.command(rich_help_panel=PANEL)(dead)
jobs_app.command(rich_help_panel=PANEL)(requeue)
jobs_app.command(rich_help_panel=PANEL)(drop)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A job's id.")]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of jobs.")]
QUICK_PATIENCE_S = 10.0


@jobs_app.command("list")
def list_jobs(
    state: Annotated[
        str | None, typer.Option(help="Only these: queued, running, done, failed, cancelled or expired.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    is_json: JsonOption = False,
    url: UrlOption = LOCAL_URL,
    patience_s: PatienceOption = QUICK_PATIENCE_S,
) -> None:
    """Your jobs, newest first."""
    from service.client.types import JobStateName as States

    if state is not None and state not in get_args(States):
        refuse(f"--state: {state!r} is not allowed; allowed: {', '.join(get_args(States))}")
    with remote(url, patience_s) as client:
        jobs = _newest(client, cast("JobStateName | None", state), limit)  # checked above
    if is_json:
        _print_json(jobs)
    elif not jobs:
        typer.echo("no jobs")
    else:
        typer.echo(f"{'ID':32}  {'STATE':9}  {'MODEL':16}  {'SIZE':9}  {'N':>2}  {'STEP':>9}  {'AGE':>6}")
        for job in jobs:
            step = f"{job.step}/{job.num_steps}"
            size, age = job.size, _age(job)
            typer.echo(f"{job.id:32}  {job.state:9}  {job.model:16}  {size:9}  {job.n:>2}  {step:>9}  {age:>6}")


@jobs_app.command()
def show(
    job_id: IdArgument,
    is_json: JsonOption = False,
    url: UrlOption = LOCAL_URL,
    patience_s: PatienceOption = QUICK_PATIENCE_S,
) -> None:
    """One job: how far it is, what it draws with, where its pictures are, why it failed."""
    with remote(url, patience_s) as client:
        job = client.job(job_id)
    if is_json:
        _print_json([job])
        return
    place = f", {job.position} before it" if job.position is not None else ""
    left = "" if job.estimated_seconds_left is None else f", {job.estimated_seconds_left:.0f} s left"
    lines = {
        "job": job.id,
        "state": f"{job.state}{place}, step {job.step} of {job.num_steps}{left}",
        "model": " ".join(filter(None, (job.model, job.model_version and f"version {job.model_version}"))),
        "recipe": f"{job.size}, {job.num_inference_steps} steps, guidance {job.guidance_scale:g}, seed {job.seed}",
        "prompt": job.prompt,
        "priority": job.priority,
        "age": _age(job),
        "took": None if job.timings.total_s is None else f"{job.timings.total_s:.1f} s",
        "error": job.error and f"{job.error.message} ({job.error.code})",
    }
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:9} {value}")
    for warning in job.warnings:
        typer.echo(f"warning   {warning}")
    for image in job.images:
        typer.echo(f"picture   {image.url}  seed {image.seed}  {image.num_bytes} bytes")


@jobs_app.command()
def cancel(
    job_ids: IdsArgument,
    is_json: JsonOption = False,
    url: UrlOption = LOCAL_URL,
    patience_s: PatienceOption = QUICK_PATIENCE_S,
) -> None:
    """End jobs: those that wait at once, those under way at their next step. After its end a job stays as it is."""
    for job_id in job_ids:
        with remote(url, patience_s) as client:
            job = client.cancel(job_id)
        if is_json:
            _print_json([job])
        else:
            typer.echo(f"{job.id}  {job.state if job.is_over else 'ends at its next step'}")


@jobs_app.command()
def fetch(
    job_id: IdArgument,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="File, folder, or name with {index}, {seed}, {slug}. Default: {slug}-{seed}.png"
        ),
    ] = None,
    is_waiting: Annotated[bool, typer.Option("--wait", help="Until the job is done.")] = False,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    url: UrlOption = LOCAL_URL,
    patience_s: PatienceOption = QUICK_PATIENCE_S,
) -> None:
    """Write a job's pictures into files; {slug} is the job's id where the service does not tell the prompt."""
    from service.cli.draw import write_picture
    from service.cli.orders import choose_format, full_template

    with remote(url, patience_s) as client:
        template = full_template(out, choose_format(out, None))
        job = client.wait(job_id) if is_waiting else client.job(job_id)
        if job.failure is not None:
            raise job.failure
        if not job.is_over:
            typer.echo(f"emmdit: job {job.id} is {job.state}; --wait waits for it", err=True)
            raise typer.Exit(Exit.FAILED)
        for file, index in zip(_files(job, template), range(job.n), strict=True):
            try:
                write_picture(client.image(job.id, index), file, is_forced)
            except FileExistsError:
                refuse(f"{file} exists; --force replaces")
            except OSError as error:
                typer.echo(f"emmdit: cannot write {file}: {error.strerror}", err=True)
                raise typer.Exit(Exit.FAILED) from None
            typer.echo(str(file))


def _files(job: Job, template: str) -> list[Path]:
    """A file for every picture. Raises ValueError where two would have the same."""
    from service.cli.orders import file_name, slug_of

    slug = slug_of(job.prompt) if job.prompt else job.id
    files = [file_name(template, image.index + 1, image.seed, slug) for image in job.images]
    if len(set(files)) < len(files):
        raise ValueError(f"--out: {len(files)} pictures would be in one file; tell them apart by {{index}} or {{seed}}")
    return files


def _newest(client: Client, state: JobStateName | None, limit: int) -> list[Job]:
    jobs: list[Job] = []
    after: str | None = None
    while len(jobs) < limit:
        page = client.jobs(limit=min(limit - len(jobs), PAGE), after=after, state=state)
        jobs += page.data
        if not page.has_more:
            break
        after = page.last_id
    return jobs


def _age(job: Job) -> str:
    seconds = max(0.0, time.time() - job.created)
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print_json(jobs: Sequence[Job]) -> None:
    """A line each."""
    for job in jobs:
        typer.echo(job.model_dump_json())
