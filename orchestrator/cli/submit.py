"""`orch submit`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.choices import Flags, resolve
from orchestrator.cli import options
from orchestrator.cli.output import note, print_json
from orchestrator.cli.tables import failures, summary
from orchestrator.cli.view import line
from orchestrator.history import fleet
from orchestrator.jobs import Jobs
from orchestrator.progress import Progress
from orchestrator.settings import load_settings
from orchestrator.spec import load_spec


@click.command(name="submit")
@options.specs_argument
@click.option("--wait", is_flag=True, help="Return when the jobs have ended, with their exit code.")
@click.option("--follow", is_flag=True, help="Like --wait, and print their events.")
@options.job_choices
@options.cache_choices
@options.allow_failing_qa
@options.as_json
@options.quiet
def command(
    specs: tuple[Path, ...],
    wait: bool,
    follow: bool,
    provider: str | None,
    model: str | None,
    concurrency: int | None,
    no_cache: bool,
    refresh: bool,
    allow_failing_qa: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put each SPEC on the fleet's queue and print its job id. Nothing is queued unless all of them are valid."""
    cache = options.cache_use(no_cache=no_cache, refresh=refresh)
    settings, flags = load_settings(), Flags(provider, model, concurrency)
    loaded = [load_spec(path) for path in specs]
    choices = [resolve(one.spec, flags, load_settings(dotenv=False), settings) for one in loaded]
    jobs = fleet(settings)
    lenient = allow_failing_qa
    job_ids = [
        jobs.submit(one, choice.spec, cache, allow_failing_qa=lenient)
        for one, choice in zip(loaded, choices, strict=True)
    ]
    rows = [{"job_id": job_id, "spec": str(path)} for job_id, path in zip(job_ids, specs, strict=True)]
    if as_json:
        print_json({"jobs": rows})
    for job_id in () if as_json else job_ids:
        click.echo(job_id)
    if wait or follow:
        told = [_await(jobs, job_id, follow=follow and not quiet) for job_id in job_ids]
        sys.exit(0 if all(progress.status == "succeeded" for progress in told) else 1)


def _await(jobs: Jobs, job_id: str, *, follow: bool) -> Progress:
    """Follow a job to its end."""
    progress = Progress(job_id)
    for batch in jobs.follow(job_id):
        for event in batch:
            progress.apply(event)
            if follow:
                note(line(event))
        if progress.over:
            break
    for message in (summary(progress), *failures(progress)):
        note(message)
    return progress
