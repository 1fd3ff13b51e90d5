"""Options and arguments that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.errors import UsageError
from orchestrator.models import Budget
from orchestrator.records import CacheUse

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
quiet = click.option("--quiet", "-q", is_flag=True, help="Print only results and errors.")
job_argument = click.argument("job", metavar="JOB")
specs_argument = click.argument(
    "specs", metavar="SPEC...", nargs=-1, required=True, type=click.Path(path_type=Path)
)


def job_choices(command: Command) -> Command:
    """Options that override what a spec says."""
    for option in (
        click.option(
            "--concurrency", type=click.IntRange(1, 1000), help="Most steps of the job running at once."
        ),
        click.option("--model", help="The provider's own name of a model."),
        click.option("--provider", help="Overrides the spec's provider."),
    ):
        command = option(command)
    return command


def cache_choices(command: Command) -> Command:
    """Options about the cache; `cache_use` reads them."""
    for option in (
        click.option("--refresh", is_flag=True, help="Ask anew, and keep the new answers in the cache."),
        click.option("--no-cache", is_flag=True, help="Neither read nor fill the cache."),
    ):
        command = option(command)
    return command


allow_failing_qa = click.option(
    "--allow-failing-qa", is_flag=True, help="Let the job succeed although hard checks of qa fail."
)
allow_unsandboxed = click.option(
    "--allow-unsandboxed", is_flag=True, help="Run generated code also where this machine has no sandbox."
)


def permit_unsandboxed(*, allowed: bool) -> None:
    """Let workers that are started from here run generated code without a sandbox, where there is none."""
    if allowed:
        os.environ["ORCH_ALLOW_UNSANDBOXED"] = "true"


def cache_use(*, no_cache: bool, refresh: bool) -> CacheUse:
    """How a job uses the cache."""
    if no_cache and refresh:
        raise UsageError("give --no-cache or --refresh, not both")
    return "off" if no_cache else "refresh" if refresh else "use"


def raised_budget(command: Command) -> Command:
    """Options that raise the budget of a job that is resumed; `budget` reads them."""
    for option in (
        click.option(
            "--budget-usd", type=click.FloatRange(min=0, min_open=True), help="Raise the budget: USD in all."
        ),
        click.option("--budget-tokens", type=click.IntRange(min=1), help="Raise the budget: tokens in all."),
    ):
        command = option(command)
    return command


def budget(tokens: int | None, usd: float | None) -> Budget | None:
    """The budget that a resumed job gets."""
    return Budget(tokens=tokens, usd=usd) if tokens or usd else None


def shown(provider: str | tuple[str, ...]) -> str:
    """A provider choice as text."""
    return provider if isinstance(provider, str) else " → ".join(provider)
