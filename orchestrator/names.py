"""The one home of names that processes share: Redis keys, task names, queues, environment."""

from __future__ import annotations

from dataclasses import dataclass

KEY_PREFIX = "orch:"
JOBS_INDEX = f"{KEY_PREFIX}jobs"
"""Sorted set of job ids by the time they were submitted, in ms."""

QUEUE = "orch"
WORKER_APP = "tasks.worker"
"""Module that `celery -A` loads; named, never imported, so that the engine stays below the tasks."""

RUNS_CACHE_DIR = ".cache"


def task_name(kind: str) -> str:
    """Celery's name of the task that runs steps of this kind."""
    return f"orch.{kind}"


def cache_key(sha256: str) -> str:
    """Redis key of one cached completion."""
    return f"{KEY_PREFIX}cache:{sha256}"


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The Redis keys of one job. They share a hash tag, so that a script may touch them all.

    job      hash    status, attempt, spec, plan, …
    steps    hash    step id → JSON record (status, ticket, token, …)
    next     hash    step id → JSON list of the steps that need it
    results  hash    step id → JSON of its StepResult
    files    hash    path below outputs/ → JSON {sha256, size_bytes, step}
    blobs    hash    sha256 → zlib-compressed content
    leases   zset    step id by the time its lease runs out, in ms; a step is running while it is in here
    ready    list    steps whose needs are met and which wait for a place (driver "ready")
    active   set     steps dispatched or running (driver "ready")
    events   stream
    """

    job_id: str

    @property
    def job(self) -> str:
        """The job's own hash; every other key is this one with a suffix, which is how the scripts find them."""
        return f"{KEY_PREFIX}{{{self.job_id}}}"

    @property
    def events(self) -> str:
        """The job's event stream."""
        return f"{self.job}:events"

    @property
    def steps(self) -> str:
        """Records of the steps."""
        return f"{self.job}:steps"

    @property
    def blobs(self) -> str:
        """Contents of artifacts and output files."""
        return f"{self.job}:blobs"

    @property
    def results(self) -> str:
        """Committed results."""
        return f"{self.job}:results"
