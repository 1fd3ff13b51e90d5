"""`orch worker`."""

from __future__ import annotations

import os

import click

from orchestrator.embedded import worker_command
from orchestrator.history import fleet
from orchestrator.settings import load_settings


@click.command(name="worker")
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), help="Steps that run at once. Default: CONCURRENCY, or 4."
)
@click.option("--name", default="orch@%h", show_default=True, help="Its name in Flower; %h is the host.")
def command(concurrency: int | None, name: str) -> None:
    """Run steps from the fleet's queue until stopped."""
    settings = load_settings()
    jobs = fleet(settings)
    jobs.client.close()
    level = "INFO" if settings.orch_log_level == "WARNING" else settings.orch_log_level
    command_line = worker_command(concurrency or settings.concurrency, level, name)
    os.execv(command_line[0], command_line)  # noqa: S606 - our own command; this process becomes the worker
