"""`orch doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict

import click
from rich.table import Table

from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.cli.tables import print_table
from orchestrator.doctor import Check, examine
from orchestrator.history import redis_url
from orchestrator.settings import load_settings

STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command(name="doctor")
@options.as_json
def command(as_json: bool) -> None:
    """Check what jobs depend on: Redis, workers, providers, clock, disk. Ends with 1 when a check fails."""
    settings = load_settings()
    checks = list(examine(settings, redis_url(settings)))
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        print_table(_table(checks))
    sys.exit(1 if failed else 0)


def _table(checks: Iterable[Check]) -> Table:
    table = Table("check", "", "how it stands", box=None, pad_edge=False)
    for check in checks:
        table.add_row(check.name, f"[{STYLE[check.status]}]{check.status}[/]", check.detail)
        if check.fix:
            table.add_row("", "", f"[dim]→ {check.fix}[/]")
    return table
