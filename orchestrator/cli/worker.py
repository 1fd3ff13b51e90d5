"""`orch worker`."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.choices import unready
from orchestrator.cli import options
from orchestrator.errors import EnvironmentNotReady, UsageError
from orchestrator.history import fleet, redis_url
from orchestrator.settings import Settings, load_settings
from orchestrator.supervisor import supervise
from orchestrator.workers import SERVES, Serves, worker_command
from providers.registry import available


@click.command(name="worker")
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), help="Steps that run at once. Default: CONCURRENCY, or 4."
)
@click.option("--provider", help="Run only steps of this provider.")
@click.option("--model", help="Run only steps of this model of it, and keep it loaded.")
@options.allow_unsandboxed
@click.option("--name", default="orch@%h", show_default=True, help="Its name in Flower; %h is the host.")
def command(
    concurrency: int | None, provider: str | None, model: str | None, allow_unsandboxed: bool, name: str
) -> None:
    """Run steps from the fleet's queue until stopped; started again when it dies."""
    options.permit_unsandboxed(allowed=allow_unsandboxed)
    settings, serves = load_settings(), Serves(provider, model)
    _check(serves, settings)
    fleet(settings).client.close()
    os.environ["ORCH_REDIS_URL"] = redis_url(settings) or ""
    os.environ[SERVES] = serves.to_environment()
    level = "INFO" if settings.orch_log_level == "WARNING" else settings.orch_log_level
    sys.exit(supervise(worker_command(concurrency or settings.concurrency, level, name, serves)))


def _check(serves: Serves, settings: Settings) -> None:
    """Refuse to start a worker for what it cannot serve."""
    if serves.provider is None:
        if serves.model:
            raise UsageError(
                "--model needs --provider, for example `orch worker --provider mlx --model FOLDER`"
            )
        return
    if serves.provider not in available():
        raise UsageError(f"--provider: there is no {serves.provider!r}; use one of {', '.join(available())}")
    if problem := unready(serves.provider, serves.model, settings):
        raise EnvironmentNotReady(problem)
