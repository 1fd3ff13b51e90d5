"""`orch providers`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click
import redis

from orchestrator.cli import options
from orchestrator.cli.output import note, print_json
from orchestrator.connection import connect, require
from orchestrator.errors import EnvironmentNotReady
from orchestrator.fleet import circuits
from orchestrator.history import LOOK_S, redis_url
from orchestrator.outlook import ProviderView, view_providers
from orchestrator.settings import load_settings


@click.command(name="providers")
@options.as_json
def command(as_json: bool) -> None:
    """Tell which providers are ready here, or why not, their model and limits, and how the fleet's circuits stand."""
    settings = load_settings()
    client = _fleet(redis_url(settings))
    views = view_providers(settings, client)
    if as_json:
        others = [asdict(one) for one in circuits(client)] if client else []
        print_json({"providers": [asdict(one) for one in views], "circuits": others})
        return
    for one in views:
        for line in _lines(one):
            click.echo(line)
    if client is None:
        note(
            "circuits, and limits in use, are not known without a Redis: set ORCH_REDIS_URL, or start `orch up`"
        )


def _fleet(url: str | None) -> redis.Redis | None:
    """The fleet's Redis if it answers."""
    if url is None:
        return None
    client = connect(url, timeout_s=LOOK_S)
    try:
        require(client)
    except EnvironmentNotReady as error:
        note(str(error))
        return None
    return client


def _lines(one: ProviderView) -> Iterator[str]:
    """A provider in words: a line, and under it why it is not ready, its limits, its circuit."""
    mark = click.style("ready    ", fg="green") if one.ready else click.style("not ready", fg="yellow")
    yield f"{one.name:10} {mark}  " + ", ".join(filter(None, (one.model, one.cost, one.endpoint)))
    if one.reason:
        yield f"{'':12}{one.reason}"
    if one.limits:
        yield f"{'':12}limits: " + ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in one.limits.items()
        )
    if one.circuit and (one.circuit.state != "closed" or one.circuit.failures):
        until = f", until {one.circuit.until}" if one.circuit.until else ""
        yield f"{'':12}circuit: {one.circuit.state}, {one.circuit.failures} failures in a row{until}"
