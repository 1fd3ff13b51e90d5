"""Job and step state in Redis. It changes only through the scripts in lua/, which write state and events together."""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import redis
from redis.commands.core import Script

from orchestrator.events import Event, EventType, Level, to_fields
from orchestrator.names import JOBS_INDEX, JobKeys
from orchestrator.records import Failure, StepResult

_LUA = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A step that its caller must send to the queue, with the ticket that its message must carry."""

    step: str
    kind: str
    ticket: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a message: run the step, it is done already, or the message is void and why."""

    verdict: Literal["run", "done", "void"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stale:
    """The script changed nothing, since the caller's token is no longer the step's, or the job is unknown or over."""

    reason: str


@cache
def _source(name: str) -> str:
    return (_LUA / "lib.lua").read_text() + (_LUA / f"{name}.lua").read_text()


class State:
    """The state of all jobs on one Redis. Cheap to make, safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._run: Callable[[str], Script] = cache(lambda name: client.register_script(_source(name)))

    def _call(self, name: str, job_id: str, *args: Any, index: bool = False) -> tuple[str, list[Any]]:
        keys = [JobKeys(job_id).job, *([JOBS_INDEX] if index else [])]
        verdict, *rest = json.loads(self._run(name)(keys=keys, args=args))
        return verdict, rest[0] if rest else []

    # --- a job's life ---------------------------------------------------------------------------------------------

    def submit(
        self,
        job_id: str,
        fields: Mapping[str, Any],
        dependents: Mapping[str, Iterable[str]],
        about: Mapping[str, Any],
    ) -> list[Dispatch]:
        """Create a job and begin its first attempt.

        Args:
            job_id: A new id.
            fields: The job's hash: `spec`, `source`, `plan`, `driver`, `concurrency`, `ttl_s`.
            dependents: For each step those that need it.
            about: The data of the job.submitted event.
        """
        following = {step: json.dumps(list(others)) for step, others in dependents.items()}
        verdict, sent = self._call(
            "submit",
            job_id,
            job_id,
            json.dumps(fields),
            json.dumps(following),
            json.dumps(about),
            secrets.token_hex(8),
            index=True,
        )
        if verdict == "exists":
            raise ValueError(f"{job_id} exists already")
        return [Dispatch(*one) for one in sent]

    def resume(
        self, job_id: str, driver: str, fields: Mapping[str, Any], *, force: bool = False
    ) -> list[Dispatch] | Stale:
        """Begin a further attempt of a failed or cancelled job; `force` takes any other too."""
        verdict, sent = self._call(
            "resume", job_id, driver, json.dumps(fields), "force" if force else "", secrets.token_hex(8)
        )
        return (
            [Dispatch(*one) for one in sent] if verdict == "ok" else Stale(str(sent[0]) if sent else verdict)
        )

    def cancel(self, job_id: str, reason: str) -> bool:
        """Stop a job that has not ended; False when it had, or is unknown."""
        return (
            self._call("cancel", job_id, "cancelled", json.dumps({"reason": reason}), secrets.token_hex(8))[0]
            == "ok"
        )

    def abort(self, job_id: str, failure: Failure) -> bool:
        """Like `cancel`, but the job ends as failed: it broke a limit of its own."""
        data = json.dumps({"failures": [failure.model_dump()]})
        return self._call("cancel", job_id, "failed", data, secrets.token_hex(8))[0] == "ok"

    def restore(
        self,
        job_id: str,
        fields: Mapping[str, Any],
        dependents: Mapping[str, Iterable[str]],
        records: Mapping[str, Mapping[str, Any]],
        results: Mapping[str, StepResult],
        events: Iterable[Event],
        blobs: Mapping[str, bytes] | None = None,
    ) -> bool:
        """Bring back a job that Redis has lost; False when Redis knows it."""
        following = {step: json.dumps(list(others)) for step, others in dependents.items()}
        files = {file.path: file.model_dump_json() for result in results.values() for file in result.files}
        kept = (blobs or {}).items()
        contents = [len(kept), *(part for sha256, blob in kept for part in (sha256, zlib.compress(blob, 1)))]
        history = [text for event in events for text in (event.id, json.dumps(to_fields(event)))]
        tables = (
            following,
            {step: json.dumps(record) for step, record in records.items()},
            {step: result.model_dump_json() for step, result in results.items()},
            files,
        )
        verdict, _ = self._call(
            "restore",
            job_id,
            job_id,
            json.dumps(fields),
            *map(json.dumps, tables),
            *contents,
            *history,
            index=True,
        )
        return verdict == "ok"

    # --- a step's life --------------------------------------------------------------------------------------------

    def claim(self, job_id: str, step: str, ticket: int, token: str, lease_s: float, worker: str) -> Claim:
        """Ask for the right to run a step; with verdict "run" the token is the step's until its lease is lost."""
        verdict, reason = self._call("claim", job_id, step, ticket, token, int(lease_s * 1000), worker)
        return Claim(verdict, reason[0] if reason else "")  # type: ignore[arg-type]

    def renew(self, job_id: str, step: str, token: str, lease_s: float) -> bool:
        """Prolong a lease; False when the step is no longer the caller's."""
        return self._call("renew", job_id, step, token, int(lease_s * 1000))[0] == "ok"

    def succeed(
        self,
        job_id: str,
        step: str,
        token: str,
        result: StepResult,
        blobs: Mapping[str, bytes],
        data: Mapping[str, Any],
    ) -> list[Dispatch] | Stale:
        """Commit a step's result with its files and contents: at most once, by the current token only."""
        files = json.dumps([file.model_dump() for file in result.files])
        contents = [part for sha256, blob in blobs.items() for part in (sha256, zlib.compress(blob, 1))]
        about = json.dumps({**data, **result.model_dump(exclude={"files"})})
        return self._commit(
            job_id, step, token, "succeeded", result.model_dump_json(), about, files, *contents
        )

    def fail(
        self, job_id: str, step: str, token: str, failure: Failure, data: Mapping[str, Any]
    ) -> list[Dispatch] | Stale:
        """Commit a step's failure; the job fails when no other of its steps runs any more."""
        about = json.dumps({**data, "kind": failure.kind, "message": failure.message})
        return self._commit(job_id, step, token, "failed", failure.model_dump_json(), about, "[]")

    def _commit(self, job_id: str, step: str, *args: Any) -> list[Dispatch] | Stale:
        verdict, sent = self._call("commit", job_id, step, *args)
        return (
            [Dispatch(*one) for one in sent]
            if verdict == "ok"
            else Stale("the step is no longer this worker's")
        )

    def emit(
        self,
        job_id: str,
        kind: EventType,
        step: str | None = None,
        data: Mapping[str, Any] | None = None,
        level: Level = "INFO",
    ) -> None:
        """Add an event that changes no state. One of a job that Redis does not know is dropped."""
        self._call("emit", job_id, kind, level, step or "", json.dumps(data) if data else "")

    # --- reading --------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> dict[str, str]:
        """The job's hash, empty when Redis does not know the job."""
        fields: Any = self._client.hgetall(JobKeys(job_id).job)
        return {name.decode(): value.decode() for name, value in fields.items()}

    def succeeded(self, job_id: str) -> set[str]:
        """Ids of the steps that are done."""
        records: Any = self._client.hgetall(JobKeys(job_id).steps)
        return {step.decode() for step, raw in records.items() if json.loads(raw)["status"] == "succeeded"}

    def jobs(self) -> list[str]:
        """Ids of the jobs that Redis knows, newest first."""
        ids: Any = self._client.zrevrange(JOBS_INDEX, 0, -1)
        return [one.decode() for one in ids]

    def result(self, job_id: str, step: str) -> StepResult | None:
        """A step's committed result, None when there is none."""
        raw: Any = self._client.hget(JobKeys(job_id).results, step)
        return StepResult.model_validate_json(raw) if raw else None

    def blob(self, job_id: str, sha256: str) -> bytes | None:
        """A content of the job by its hash, None when Redis no longer has it."""
        raw: Any = self._client.hget(JobKeys(job_id).blobs, sha256)
        return zlib.decompress(raw) if raw else None
