"""The one home of names that processes share: Redis keys, task names, queues, environment."""

from __future__ import annotations

from dataclasses import dataclass

KEY_PREFIX = "orch:"
CELERY_PREFIX = f"{KEY_PREFIX}celery:"
"""What Celery puts before every key of its own."""

QUEUE = "orch"
MLX_QUEUE = "orch.mlx"
"""Steps whose model runs inside a worker: only workers on machines that can do that take them."""

FLEET = {
    "PREFIX": KEY_PREFIX,
    "JOBS": f"{KEY_PREFIX}jobs",  # sorted set: job id by the time it was submitted, in ms
    "ALIVE": f"{KEY_PREFIX}alive",  # set: ids of the jobs that have not ended
    "TICKETS": f"{KEY_PREFIX}tickets",  # hash, for each queue: its next place, the highest place seen by a claim
    "WORKERS": f"{KEY_PREFIX}workers",  # hash: worker → JSON {slots, until_ms, serves}
    "SLOTS": f"{KEY_PREFIX}slots",  # how many steps the living workers run at once
    "HELD": f"{KEY_PREFIX}held",  # hash: job/step → the worker that runs it, with " alone" where nothing else may
    "LEADER": f"{KEY_PREFIX}leader",  # the worker that looks after all jobs, for a few seconds
    "TICKS": f"{KEY_PREFIX}ticks",  # hash: last time a leader looked, and since when without a gap
    "STOPS": f"{KEY_PREFIX}stops",  # counts jobs that ended: workers look whether one of theirs did
    "HOLDS": f"{KEY_PREFIX}holds:",  # prefix: + token → set: what a running step holds of the fleet's, see lib.lua
    "LIMIT": f"{KEY_PREFIX}limit:",  # prefix: + provider/model → hash: what the vendor said is left; suffixes below it
    "CIRCUIT": f"{KEY_PREFIX}circuit:",  # prefix: + circuit → hash: state, failures, epoch, until_ms, probe, probed_ms
    "CIRCUITS": f"{KEY_PREFIX}circuits",  # set: circuits there are
    "SETTLED": f"{KEY_PREFIX}settled:",  # prefix: + call → the reply to who told of its end, for a while
    "FLIGHT": f"{KEY_PREFIX}flight:",  # prefix: + cache key → token of the step that asks for all who ask the same
    "CACHE": f"{KEY_PREFIX}cache:",  # prefix: + cache key → JSON of a completion
    "CACHED": f"{KEY_PREFIX}cached",  # sorted set: cache key by the time it expires, in ms
    "CACHED_SIZES": f"{KEY_PREFIX}cached-sizes",  # hash: cache key → bytes
    "CACHED_BYTES": f"{KEY_PREFIX}cached-bytes",  # sum of those
    "QUEUES": CELERY_PREFIX,  # prefix: + queue → Celery's own list of waiting messages
    "QUEUE": QUEUE,  # the queue of steps that name no other
}
"""The prefix, and Redis keys of the whole fleet, by the names that the Lua scripts know them by."""

WORKER_APP = "tasks.worker"
"""Module that `celery -A` loads; named, never imported, so that the engine stays below the tasks."""

RUNS_CACHE_DIR = ".cache"


def task_name(kind: str) -> str:
    """Celery's name of the task that runs steps of this kind."""
    return f"orch.{kind}"


def cache_key(sha256: str) -> str:
    """Redis key of one cached completion."""
    return f"{FLEET['CACHE']}{sha256}"


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The Redis keys of one job. They share a hash tag, so that a script may touch them all.

    job      hash    status, attempt, spec, plan, …
    steps    hash    step id → JSON record (status, ticket, token, …)
    next     hash    step id → JSON list of the steps that need it
    results  hash    step id → JSON of its StepResult
    files    hash    path below outputs/ → JSON {sha256, size_bytes, step}
    blobs    hash    sha256 → zlib-compressed content
    open     set     steps that are not done
    ready    list    steps whose needs are met and which wait for a place
    active   set     steps that hold a place: dispatched or running
    queued   set     steps dispatched and not claimed yet
    leases   zset    step id by the time its lease runs out, in ms; a step is running while it is in here
    parked   zset    step id by the time it is due, in ms
    reserved hash    call → "tokens usd" that the job's budget keeps for it
    answers  hash    step id:cache key → the answer to a question, for a job without the cache
    paid     hash    step id:cache key → the answer to one call of a step that has not ended yet
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
    def answers(self) -> str:
        """Answers that steps of a job without the cache have paid for."""
        return f"{self.job}:answers"

    @property
    def paid(self) -> str:
        """Answers to single calls of steps that have not ended."""
        return f"{self.job}:paid"

    @property
    def files(self) -> str:
        """The job's files."""
        return f"{self.job}:files"

    @property
    def results(self) -> str:
        """Committed results."""
        return f"{self.job}:results"
