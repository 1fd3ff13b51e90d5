"""`orch run`: one job from start to end on this machine, with a stack of its own."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from orchestrator.celery_app import make_app
from orchestrator.connection import connect
from orchestrator.embedded import EmbeddedStack, Stack
from orchestrator.errors import Interrupted, UsageError
from orchestrator.events import Event
from orchestrator.jobs import Jobs
from orchestrator.mirror import Mirror
from orchestrator.models import Budget, JobSpec
from orchestrator.progress import Progress
from orchestrator.records import CacheUse
from orchestrator.runfolder import RunFolder
from orchestrator.settings import Settings
from orchestrator.spec import LoadedSpec

Watch = Callable[[Progress, list[Event]], None]
"""Is told of the job's progress after each batch of events, and with an empty one every half second."""

DRAIN_S = 5.0


def submit_here(
    settings: Settings,
    loaded: LoadedSpec,
    spec: JobSpec,
    watch: Watch,
    cache: CacheUse = "use",
    *,
    allow_failing_qa: bool = False,
) -> Progress:
    """Run a new job of a spec; `spec` is the resolved one. See `run_here`."""

    def start(jobs: Jobs) -> str:
        return jobs.submit(loaded, spec, cache, allow_failing_qa=allow_failing_qa)

    return run_here(settings, spec, start, watch)


def resume_here(
    settings: Settings, folder: RunFolder, watch: Watch, budget: Budget | None = None
) -> Progress:
    """Go on with a job from its run folder. See `run_here`."""
    if folder.progress().status == "succeeded":
        raise UsageError(f"{folder.job_id} has succeeded: there is nothing to resume")

    def start(jobs: Jobs) -> str:
        jobs.resume(folder.job_id, lost=jobs.restore(folder), budget=budget)
        return folder.job_id

    return run_here(settings, folder.read_spec(), start, watch)


def run_here(settings: Settings, spec: JobSpec, start: Callable[[Jobs], str], watch: Watch) -> Progress:
    """Run a job on an embedded stack until it ends, and mirror it.

    Args:
        settings: This machine's.
        spec: The job's, resolved.
        start: Submits or resumes the job on the stack's Redis and returns its id.
        watch: Told of every event, after it is in the run folder.

    Raises:
        Interrupted: The user stopped it; the job is cancelled and its run folder complete.
        EnvironmentNotReady: The stack could not be started.
        StackDied: The stack broke down on the way.
    """
    width = spec.concurrency or settings.concurrency
    with _signals(), EmbeddedStack(settings.orch_runs_dir, width, settings.orch_log_level) as stack:
        client = connect(stack.url)
        jobs = Jobs(client, make_app(stack.url), settings.orch_result_ttl_s)
        job_id = start(jobs)
        folder = RunFolder(settings.orch_runs_dir / job_id)
        with Mirror(client, folder) as mirror:
            try:
                _follow(jobs, stack, mirror, watch)
            except KeyboardInterrupt:
                jobs.state.cancel(job_id, "interrupted")
                _drain(jobs, mirror, watch)
                raise Interrupted(
                    f"{job_id} was interrupted; `orch run --resume {job_id}` goes on with it"
                ) from None
            finally:
                with suppress(OSError):
                    shutil.copyfile(stack.worker_log, folder.logs / "worker.log")
            return mirror.progress


def _follow(jobs: Jobs, stack: Stack, mirror: Mirror, watch: Watch) -> None:
    job_id = mirror.progress.job_id
    for batch in jobs.follow(job_id, mirror.progress.last_id):
        watch(mirror.progress, mirror.write(batch))
        if mirror.progress.over:
            return
        stack.check()


def _drain(jobs: Jobs, mirror: Mirror, watch: Watch) -> None:
    """Mirror what is left of a job that was stopped."""
    deadline = time.monotonic() + DRAIN_S
    for batch in jobs.follow(mirror.progress.job_id, mirror.progress.last_id, wait_ms=100):
        watch(mirror.progress, mirror.write(batch))
        if mirror.progress.over or time.monotonic() > deadline:
            return


@contextmanager
def _signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, and take the first of them only: then everything is being stopped."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def interrupt(*_: object) -> NoReturn:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def newest_unfinished(folders: list[RunFolder], spec_sha256: str) -> RunFolder | None:
    """The newest run of the same spec that has not succeeded."""
    told = [(folder, folder.progress()) for folder in folders]
    same = [
        (progress.created_ms or 0, folder)
        for folder, progress in told
        if progress.about.get("spec_sha256") == spec_sha256 and progress.status != "succeeded"
    ]
    return max(same, key=lambda one: one[0])[1] if same else None


def project_folder(settings: Settings, progress: Progress) -> Path:
    """Where the generated project is."""
    return RunFolder(settings.orch_runs_dir / progress.job_id).outputs / str(progress.about["project"])
