"""Jobs of the past and present, wherever they are known: in the fleet's Redis, or in a run folder on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator import pointer
from orchestrator.celery_app import make_app
from orchestrator.connection import HOW_TO_POINT, connect, require
from orchestrator.errors import EnvironmentNotReady, NoSuchJob
from orchestrator.events import Event
from orchestrator.jobs import Jobs
from orchestrator.progress import Progress
from orchestrator.records import Job
from orchestrator.runfolder import RunFolder, run_folders
from orchestrator.settings import Settings

LOOK_S = 2.0
"""How long a command waits for a Redis to say that it is there."""


def fleet(settings: Settings) -> Jobs:
    """The jobs of the fleet's Redis.

    Raises:
        EnvironmentNotReady: No Redis is named, or it does not answer.
    """
    url = redis_url(settings)
    if url is None:
        raise EnvironmentNotReady(
            f"no Redis is named: {HOW_TO_POINT}, start `orch up`, or use `orch run`, which brings its own"
        )
    require(connect(url, timeout_s=LOOK_S))
    client = connect(url)
    return Jobs(client, make_app(url), settings.orch_result_ttl_s)


def redis_url(settings: Settings) -> str | None:
    """The Redis that is named, else that of the `orch up` that runs for the same runs; None when there is neither."""
    return settings.redis_url or pointer.running(settings.orch_runs_dir)


@dataclass(frozen=True)
class History:
    """Reads jobs. Redis, where there is one, has the last word on the jobs that it knows."""

    runs_dir: Path
    jobs: Jobs | None

    @classmethod
    def of(cls, settings: Settings) -> History:
        """The history that these settings lead to: with a Redis if there is one."""
        return cls(settings.orch_runs_dir, fleet(settings) if redis_url(settings) else None)

    def find(self, prefix: str) -> str:
        """Return the one job id that begins with a prefix; "job_" may be left out.

        Raises:
            NoSuchJob: There is none, or more than one.
        """
        wanted = prefix if prefix.startswith("job_") else f"job_{prefix}"
        matches = [job_id for job_id in self._ids() if job_id.startswith(wanted)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise NoSuchJob(
                f"{prefix} begins {len(matches)} job ids: {', '.join(matches[:5])}; give more of it"
            )
        raise NoSuchJob(f"no job id begins with {prefix}; `orch list` shows the jobs there are")

    def in_redis(self, job_id: str) -> bool:
        """Whether Redis knows the job."""
        return self.jobs is not None and bool(self.jobs.state.job(job_id))

    def folder(self, job_id: str) -> RunFolder:
        """The job's run folder, which may not exist."""
        return RunFolder(self.runs_dir / job_id)

    def events(self, job_id: str) -> Iterator[Event]:
        """Every event of the job until now, oldest first."""
        if self.jobs is not None and self.in_redis(job_id):
            return self.jobs.events(job_id)
        return self.folder(job_id).read_events()

    def progress(self, job_id: str) -> Progress:
        """The job as its events tell it."""
        return Progress.of(job_id, self.events(job_id))

    def newest(self, limit: int | None = None, status: str | None = None) -> list[Job]:
        """Jobs, newest first."""
        told = (self.progress(job_id) for job_id in self._ids())
        jobs = [_summed_up(one) for one in told if one.created_ms and status in (None, one.status)]
        return sorted(jobs, key=lambda job: job.created_at, reverse=True)[:limit]

    def _ids(self) -> list[str]:
        on_disk = {folder.job_id for folder in run_folders(self.runs_dir)}
        return sorted(on_disk | set(self.jobs.state.jobs() if self.jobs else ()))


def _summed_up(progress: Progress) -> Job:
    shown = progress.to_json()
    return Job(**{name: shown[name] for name in Job.model_fields})
