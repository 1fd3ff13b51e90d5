"""How jobs and their steps look to people: tables and one-line summaries."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from orchestrator.progress import Figures, Progress
from orchestrator.records import Job

STATUS_STYLE = {
    "succeeded": "green",
    "failed": "bold red",
    "running": "cyan",
    "queued": "yellow",
    "cancelled": "magenta",
    "pending": "dim",
}


def print_table(table: Table) -> None:
    """Print a table on stdout."""
    Console().print(table)


def jobs_table(jobs: Iterable[Job]) -> Table:
    """The table of `orch list`."""
    table = Table("job", "project", "status", "attempt", "provider", "created", box=None)
    for job in jobs:
        status = f"[{STATUS_STYLE[job.status]}]{job.status}[/]"
        table.add_row(job.job_id, job.project, status, str(job.attempt), job.provider, job.created_at)
    return table


def steps_table(progress: Progress, *, now_ms: float | None = None) -> Table:
    """The DAG's steps with state, time and tokens; running ones are timed against `now_ms`."""
    table = Table(
        "step", "needs", "state", "time", "tokens in/out", "calls", "cached", "USD", box=None, pad_edge=False
    )
    for column in table.columns[:2]:
        column.overflow = "fold"  # the ends of long names are what tells them apart
    for step in progress.steps.values():
        end = step.finished_ms or (now_ms if step.status == "running" else None)
        figures = step.figures
        table.add_row(
            step.id,
            ", ".join(step.needs),
            f"[{STATUS_STYLE.get(step.status, '')}]{step.status}[/]",
            f"{(end - step.started_ms) / 1000:.1f} s" if step.started_ms and end else "",
            f"{figures.tokens_in}/{figures.tokens_out}" if figures.provider_calls else "",
            str(figures.provider_calls or ""),
            str(figures.cache_hits or ""),
            _cost(figures) if figures.provider_calls else "",
        )
    return table


def summary(progress: Progress) -> str:
    """One line on how a job stands."""
    seconds = progress.to_json()["duration_s"]
    usage = progress.usage()
    cost = "cost unknown" if usage.cost_usd is None else f"{usage.cost_usd:.4f} USD"
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    return (
        f"{progress.job_id} {progress.status}{took}: {len(progress.completed())} of {len(progress.steps)} steps, "
        f"{len(progress.files)} files, {usage.provider_calls} provider calls, {usage.cache_hits} cache hits, {cost}"
    )


def waits(progress: Progress) -> list[str]:
    """One line for each step that waits for something else than the steps that it needs."""
    lines = []
    for step in progress.steps.values():
        waiting = progress.waiting(step)
        if waiting and not waiting["reason"].startswith("steps: "):
            until = f", until {waiting['until']}" if waiting["until"] else ""
            lines.append(f"{step.id} waits for {waiting['reason']}{until}")
    return lines


def _cost(figures: Figures) -> str:
    return "?" if figures.cost_usd is None else f"{figures.cost_usd:.4f}" if figures.cost_usd else "0"


def failures(progress: Progress) -> list[str]:
    """One line for each failure."""
    return [f"{one.step or 'job'} failed ({one.kind}): {one.message}" for one in progress.failures]
