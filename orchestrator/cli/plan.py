"""`orch plan`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.choices import Flags, resolve
from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.settings import load_settings
from orchestrator.spec import load_spec


@click.command(name="plan")
@click.argument("spec", type=click.Path(path_type=Path))
@options.job_choices
@options.as_json
def command(
    spec: Path, provider: str | None, model: str | None, concurrency: int | None, as_json: bool
) -> None:
    """Show the steps of SPEC by level: those of one level wait for none of each other."""
    flags = Flags(provider, model, concurrency)
    choice = resolve(load_spec(spec).spec, flags, load_settings(dotenv=False), load_settings())
    plan = choice.spec.plan()
    if as_json:
        steps = [{"id": one.id, "kind": one.kind, "needs": list(one.needs)} for one in plan.steps]
        print_json(
            {"project": choice.spec.project, "steps": steps, "levels": [list(one) for one in plan.levels()]}
        )
        return
    click.echo(f"{choice.spec.project}: provider {options.shown(choice.spec.provider)} ({choice.why})")
    for number, level in enumerate(plan.levels(), 1):
        click.echo(f"{number:>4}  {', '.join(level)}")
