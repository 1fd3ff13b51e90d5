"""`orch resume`."""

from __future__ import annotations

import click

from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.errors import NoSuchJob
from orchestrator.history import History, fleet
from orchestrator.settings import load_settings


@click.command(name="resume")
@options.job_argument
@click.option("--force", is_flag=True, help="Also a job that succeeded or is running.")
@options.raised_budget
@options.as_json
def command(
    job: str, force: bool, budget_tokens: int | None, budget_usd: float | None, as_json: bool
) -> None:
    """Go on with JOB on the fleet: what is done is skipped. A job that Redis has lost is taken from its run folder."""
    settings = load_settings()
    jobs = fleet(settings)
    history = History(settings.orch_runs_dir, jobs)
    job_id, lost = history.find(job), {}
    if not history.in_redis(job_id):
        if not history.folder(job_id).events.exists():
            raise NoSuchJob(f"Redis has lost {job_id}, and it is not in {settings.orch_runs_dir}/")
        lost = jobs.restore(history.folder(job_id))
    jobs.resume(job_id, force=force, lost=lost, budget=options.budget(budget_tokens, budget_usd))
    if as_json:
        print_json(jobs.progress(job_id).to_json())
    else:
        click.echo(job_id)
