"""`orch list`."""

from __future__ import annotations

from typing import get_args

import click

from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.cli.tables import jobs_table, print_table
from orchestrator.history import History
from orchestrator.records import JobStatus
from orchestrator.settings import load_settings


@click.command(name="list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most jobs to show.")
@click.option("--status", type=click.Choice(get_args(JobStatus)), help="Only jobs of that status.")
@options.as_json
def command(limit: int, status: str | None, as_json: bool) -> None:
    """List jobs, newest first: those in Redis and those with a run folder here."""
    jobs = History.of(load_settings()).newest(limit, status)
    if as_json:
        print_json({"jobs": [job.model_dump() for job in jobs]})
    else:
        print_table(jobs_table(jobs))
