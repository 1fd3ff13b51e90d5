"""How a job is shown while it runs: as a live table, or as plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.cli.tables import steps_table
from orchestrator.events import Event
from orchestrator.localrun import Watch
from orchestrator.progress import Progress


@contextmanager
def watching(*, quiet: bool, stderr: bool) -> Iterator[Watch]:
    """Give what is to be told of a job's progress."""
    console = Console(stderr=stderr)
    if quiet:
        yield lambda _progress, _events: None
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda progress, _: live.update(_picture(progress), refresh=True)
    else:
        yield lambda _progress, events: _print_lines(events, stderr=stderr)


def _picture(progress: Progress) -> Group:
    head = Text(f"{progress.job_id}  {progress.about.get('project', '')}  {progress.status}")
    return Group(head, steps_table(progress, now_ms=time.time() * 1000))


def _print_lines(events: list[Event], *, stderr: bool) -> None:
    for event in events:
        if (
            event.type.startswith(("job.", "step.", "cache.hit", "provider.", "qa.repair"))
            or event.level != "INFO"
        ):
            click.echo(line(event), err=stderr)


def line(event: Event) -> str:
    """One event as a line for people."""
    shown = (
        "message",
        "reason",
        "kind",
        "provider",
        "model",
        "path",
        "duration_s",
        "attempt",
        "status",
        "name",
    )
    data = " ".join(f"{name}={event.get(name)}" for name in shown if event.get(name) is not None)
    return " ".join(part for part in (event.ts[11:23], event.type, event.step or "", data) if part)
