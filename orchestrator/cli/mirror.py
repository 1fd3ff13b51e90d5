"""`orch mirror`."""

from __future__ import annotations

import logging
import signal
import sys
import threading

import click

from orchestrator.atomic import lock, locked
from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.errors import EnvironmentNotReady
from orchestrator.history import fleet
from orchestrator.mirroring import Mirroring, Told
from orchestrator.progress import Progress
from orchestrator.runfolder import RunFolder
from orchestrator.settings import load_settings


@click.command(name="mirror")
@click.option(
    "--once", is_flag=True, help="Bring all run folders up to date and exit; 1 if one of them could not be."
)
@options.as_json
@options.quiet
def command(once: bool, as_json: bool, quiet: bool) -> None:
    """Write the run folders of all the fleet's jobs into ORCH_RUNS_DIR of this machine, until stopped.

    It may be killed and started again at any time, and waits for a Redis that is away. Prints a line for each job that
    has ended (with --json a JSON document a line). SIGTERM and Ctrl-C let it write what is there, then it exits with 0.
    """
    settings = load_settings()
    client, runs_dir = fleet(settings).client, settings.orch_runs_dir
    runs_dir.mkdir(parents=True, exist_ok=True)
    if locked(runs_dir):
        raise EnvironmentNotReady(f"another `orch mirror` writes into {runs_dir}/: one is enough")
    logging.basicConfig(level=settings.orch_log_level, format="%(asctime)s %(levelname)s %(message)s")
    with lock(runs_dir):
        mirroring = Mirroring(client, runs_dir, _teller(as_json=as_json, quiet=quiet))
        if once:
            sys.exit(1 if mirroring.catch_up() else 0)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        mirroring.run(stop)


def _teller(*, as_json: bool, quiet: bool) -> Told:
    """Tell of a job that has ended and whose folder is whole."""

    def tell(folder: RunFolder, progress: Progress) -> None:
        if as_json:
            about = {"job_id": folder.job_id, "path": str(folder.path), "status": progress.status}
            print_json({**about, "files": len(progress.files)}, lines=True)
        elif not quiet:
            click.echo(f"{folder.path} {progress.status}, {len(progress.files)} files")

    return tell
