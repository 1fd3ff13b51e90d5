"""`orch cancel`."""

from __future__ import annotations

import click

from orchestrator.cli import options
from orchestrator.errors import OrchError
from orchestrator.history import History
from orchestrator.settings import load_settings


@click.command(name="cancel")
@options.job_argument
def command(job: str) -> None:
    """Stop JOB: queued steps at once, running ones as soon as their worker notices."""
    settings = load_settings()
    history = History.of(settings)
    job_id = history.find(job)
    if history.jobs is None or not history.jobs.state.cancel(job_id, "orch cancel"):
        raise OrchError(f"{job_id} is not running: it is {history.progress(job_id).status}")
    click.echo(f"{job_id} cancelled")
