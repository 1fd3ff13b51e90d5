"""`orch pull`."""

from __future__ import annotations

import click

from orchestrator.cli import options
from orchestrator.cli.output import note, print_json
from orchestrator.errors import NoSuchJob, OrchError
from orchestrator.filestore import FileStore
from orchestrator.history import History, fleet
from orchestrator.mirroring import bring_up_to_date
from orchestrator.progress import Progress
from orchestrator.publish import publish_finished
from orchestrator.runfolder import RunFolder
from orchestrator.settings import load_settings


@click.command(name="pull")
@options.job_argument
@options.as_json
@options.quiet
def command(job: str, as_json: bool, quiet: bool) -> None:
    """Bring the run folder of JOB up to date from Redis and print where it is.

    The project of a job that succeeded is also put where the spec's output_dir says. Of a job that is under way the
    folder is as of now: pull again later, or run `orch mirror`.
    """
    settings = load_settings()
    history = History.of(settings)
    job_id = _find(history, job) or fleet(settings) and history.find(job)
    folder = history.folder(job_id)
    if history.jobs and history.in_redis(job_id):
        bring_up_to_date(history.jobs.client, folder)
    elif not quiet:
        note(f"{job_id} is not in Redis; its run folder is here already")
    progress = folder.progress()
    _require_whole(folder, progress)
    target = publish_finished(folder, progress)
    if as_json:
        print_json(document(folder, progress))
    else:
        click.echo(folder.path)
    if target and progress.status == "succeeded" and not quiet:
        note(f"the project is in {target}/ too")
