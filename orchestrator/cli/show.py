"""`orch show`."""

from __future__ import annotations

import click

from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.cli.tables import failures, print_table, steps_table, summary, waits
from orchestrator.cli.view import line
from orchestrator.history import History
from orchestrator.settings import load_settings


@click.command(name="show")
@options.job_argument
@click.option("--events", is_flag=True, help="Its events too.")
@click.option("--files", is_flag=True, help="Its files too.")
@options.as_json
def command(job: str, events: bool, files: bool, as_json: bool) -> None:
    """Tell how JOB stands: steps, durations, tokens, cost, failures."""
    history = History.of(load_settings())
    job_id = history.find(job)
    progress, told = history.progress(job_id), list(history.events(job_id)) if events else []
    if as_json:
        print_json(progress.to_json() | ({"events": [event.to_json() for event in told]} if events else {}))
        return
    click.echo(summary(progress))
    print_table(steps_table(progress))
    for text in (*waits(progress), *failures(progress), *map(line, told)):
        click.echo(text)
    for path, file in sorted(progress.files.items()) if files else ():
        click.echo(f"{file.sha256[:12]}  {file.size_bytes:>8}  {path}")
