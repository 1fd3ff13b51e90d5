"""`orch pull`."""

from __future__ import annotations

from typing import Any

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
from orchestrator.settings import Settings, load_settings


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
    folder = history.folder(_find(history, settings, job))
    if history.jobs and history.in_redis(folder.job_id):
        bring_up_to_date(history.jobs.client, folder)
    elif not folder.events.exists():
        raise NoSuchJob(f"Redis has lost {folder.job_id}, and it is not in {settings.orch_runs_dir}/")
    else:
        note(f"{folder.job_id} is not in Redis: its run folder is here already")
    progress = folder.progress()
    _require_whole(folder, progress)
    target = publish_finished(folder, progress)
    if as_json:
        print_json(_document(folder, progress))
        return
    click.echo(folder.path)
    if target and progress.status == "succeeded" and not quiet:
        note(f"the project is in {target}/ too")


def _find(history: History, settings: Settings, prefix: str) -> str:
    """The job's id. Where nothing is known of it and no Redis was asked, the user is told to name one."""
    try:
        return history.find(prefix)
    except NoSuchJob:
        if history.jobs is None:
            fleet(settings)
        raise


def _require_whole(folder: RunFolder, progress: Progress) -> None:
    store = FileStore(folder.outputs)
    lost = [path for path, file in progress.files.items() if not store.verify(path, file.sha256)]
    if lost:
        raise OrchError(f"{folder.path} is not whole: {', '.join(lost[:5])} is not what the job wrote")


def _document(folder: RunFolder, progress: Progress) -> dict[str, Any]:
    shown = progress.to_json()
    return {
        "job_id": folder.job_id,
        "path": str(folder.path),
        "status": shown["status"],
        "files": shown["files"],
        "events": sum(1 for _ in folder.read_lines()),
    }
