"""`orch worker`."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.history import fleet, redis_url
from orchestrator.settings import load_settings
from orchestrator.supervisor import supervise
from orchestrator.workers import worker_command


@click.command(name="worker")
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), help="Steps that run at once. Default: CONCURRENCY, or 4."
)
@click.option("--name", default="orch@%h", show_default=True, help="Its name in Flower; %h is the host.")
def command(concurrency: int | None, name: str) -> None:
    """Run steps from the fleet's queue until stopped; started again when it dies."""
    settings = load_settings()
    fleet(settings).client.close()
    os.environ["ORCH_REDIS_URL"] = redis_url(settings) or ""
    level = "INFO" if settings.orch_log_level == "WARNING" else settings.orch_log_level
    sys.exit(supervise(worker_command(concurrency or settings.concurrency, level, name)))
