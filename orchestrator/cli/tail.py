"""`orch tail`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

import click

from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.cli.view import line
from orchestrator.events import EVENT_TYPES, FINAL, Event, Level, id_order
from orchestrator.history import History
from orchestrator.settings import load_settings


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; an empty set wants all."""

    types: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()
    levels: frozenset[str] = frozenset()
    since: str = "0"

    def wants(self, event: Event) -> bool:
        """Whether an event passes."""
        return (
            (not self.types or event.type in self.types)
            and (not self.steps or event.step in self.steps)
            and (not self.levels or event.level in self.levels)
            and event.order > id_order(self.since)
        )


def _stream_id(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        id_order(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not an event's id, which looks like 1700000000000-0"
        ) from None
    return value


@click.command(name="tail")
@options.job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("-n", "last", type=click.IntRange(0), help="Only the last N.")
@click.option(
    "--type", "types", multiple=True, type=click.Choice(EVENT_TYPES), metavar="TYPE", help="Only this type."
)
@click.option("--step", "steps", multiple=True, help="Only this step.")
@click.option("--level", "levels", multiple=True, type=click.Choice(get_args(Level)), help="Only this level.")
@click.option("--since", default="0", callback=_stream_id, metavar="ID", help="Only events after this id.")
@options.as_json
def command(
    job: str,
    follow: bool,
    last: int | None,
    types: tuple[str, ...],
    steps: tuple[str, ...],
    levels: tuple[str, ...],
    since: str,
    as_json: bool,
) -> None:
    """Print the events of JOB, oldest first."""
    history = History.of(load_settings())
    job_id = history.find(job)
    wanted = Filter(frozenset(types), frozenset(steps), frozenset(levels), since)
    past = list(history.events(job_id))
    _print(deque(filter(wanted.wants, past), maxlen=last), as_json=as_json)
    if follow and history.jobs and history.in_redis(job_id):
        _print(filter(wanted.wants, _coming(history, job_id, past)), as_json=as_json)


def _coming(history: History, job_id: str, past: list[Event]) -> Iterator[Event]:
    """What happens after the past, until the job ends."""
    last = past[-1] if past else None
    if history.jobs is None or (last and last.type in FINAL):
        return
    for batch in history.jobs.follow(job_id, last.id if last else "0"):
        yield from batch
        if batch and batch[-1].type in FINAL:
            return


def _print(events: Iterable[Event], *, as_json: bool) -> None:
    for event in events:
        if as_json:
            print_json(event.to_json(), lines=True)
        else:
            click.echo(line(event))
