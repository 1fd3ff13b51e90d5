"""`orch validate`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.choices import require_options
from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.spec import load_spec


@click.command(name="validate")
@options.specs_argument
@options.as_json
def command(specs: tuple[Path, ...], as_json: bool) -> None:
    """Check each SPEC without running it."""
    checked = [(path, load_spec(path).spec) for path in specs]
    for _, spec in checked:
        require_options(spec)
    if as_json:
        rows = [
            {
                "spec": str(path),
                "valid": True,
                "project": spec.project,
                "steps": [one.id for one in spec.all_steps()],
            }
            for path, spec in checked
        ]
        print_json({"specs": rows})
        return
    for path, spec in checked:
        click.echo(f"{path}: valid, project {spec.project}, {len(spec.all_steps())} steps")
