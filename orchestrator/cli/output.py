"""What commands print that needs no table: JSON documents and notes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from orchestrator.records import SCHEMA_VERSION


def print_json(document: Mapping[str, Any], *, lines: bool = False) -> None:
    """Print one document on stdout; with `lines` on one line, for a stream of them."""
    whole = {"schema_version": SCHEMA_VERSION, **document}
    click.echo(json.dumps(whole, ensure_ascii=False, indent=None if lines else 2))
    if lines:
        sys.stdout.flush()


def note(message: str) -> None:
    """Tell the user something that is not a result."""
    click.echo(message, err=True)
