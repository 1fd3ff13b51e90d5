"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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


def shown(provider: str | tuple[str, ...]) -> str:
    """A provider choice as text."""
    return provider if isinstance(provider, str) else " → ".join(provider)
