"""Job and step state in Redis. It changes only through the scripts in lua/, which write state and events together."""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import redis

from orchestrator.events import Act, Event, to_fields
from orchestrator.models import JobSpec
from orchestrator.names import FLEET, QUEUE, JobKeys
from orchestrator.plan import Plan, PlannedStep
from orchestrator.records import CacheUse, Failure, OutputFile, StepResult, whole_text
from orchestrator.scripts import Scripts, packed

LOSSES_UNTIL_ALONE = 2
"""A step with which workers died that often runs in a process of its own."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A step that its caller must send to the queue, with the ticket that its message must carry."""

    step: str
    kind: str
    ticket: int
    queue: str = QUEUE


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a message.

    `run`: the step is the caller's. `alone`: likewise, but in a process of its own. `done`: it succeeded before.
    `void`: the message has no right to run it, for this reason. `retry` is what the last run left with `release`,
    `runs` how often the step was claimed.
    """

    verdict: Literal["run", "alone", "done", "void"]
    reason: str = ""
    retry: str = ""
    runs: int = field(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A job as it was submitted: its resolved spec, and how it uses the cache (`CacheUse`)."""

    spec: JobSpec
    cache: CacheUse = "use"
    allow_failing_qa: bool = False


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step that is added to a plan while its job runs; the step of the spec that its id begins with is its model."""

    id: str
    kind: str
    needs: tuple[str, ...] = ()
    provider: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """Steps that a job's plan grows by."""

    steps: tuple[NewStep, ...] = ()

    def packed(self) -> tuple[str, str]:
        """As scripts take it: the steps, and the data of plan.expanded."""
        bare = [[one.id, one.kind, list(one.needs)] for one in self.steps]
        return json.dumps(bare), json.dumps({"steps": [asdict(one) for one in self.steps]})


@dataclass(frozen=True, slots=True)
class Stale:
    """The script changed nothing, since the caller's token is no longer the step's, or the job is unknown or over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lead:
    """The jobs that a leader looks after; `calm` says whether leases that ran out may be acted on."""

    calm: bool
    jobs: tuple[str, ...]


class State:
    """The state of all jobs on one Redis. Cheap to make, safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._call = self._scripts.call

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
            fields: The job's hash: `spec`, `source`, `plan`, `driver`, `concurrency`, `timeout_ms`, `ttl_s`.
            dependents: For each step those that need it.
            about: The data of the job.submitted event.
        """
        following = {step: json.dumps(list(others)) for step, others in dependents.items()}
        verdict, sent = self._call(
            "submit", job_id, json.dumps(fields), json.dumps(following), json.dumps(about), _call_id()
        )
        if verdict == "exists":
            raise ValueError(f"{job_id} exists already")
        return [Dispatch(*one) for one in sent]

    def resume(
        self,
        job_id: str,
        driver: str,
        fields: Mapping[str, Any],
        *,
        force: bool = False,
        lost: Mapping[str, str] | None = None,
    ) -> list[Dispatch] | Stale:
        """Begin a further attempt of a failed, cancelled or stuck job; `force` takes any other too.

        `lost` names steps that were done and must run again, each with the reason, for their events.
        """
        reasons = json.dumps(lost or {})
        verdict, sent = self._call(
            "resume", job_id, driver, json.dumps(fields), "force" if force else "", reasons, _call_id()
        )
        return (
            [Dispatch(*one) for one in sent] if verdict == "ok" else Stale(str(sent[0]) if sent else verdict)
        )

    def cancel(self, job_id: str, reason: str) -> bool:
        """Stop a job that has not ended; False when it had, or is unknown."""
        data = json.dumps({"reason": reason})
        return self._call("cancel", job_id, "cancelled", data, _call_id())[0] == "ok"

    def abort(self, job_id: str, failure: Failure) -> bool:
        """Like `cancel`, but the job ends as failed: it broke a limit of its own."""
        data = json.dumps({"failures": [failure.model_dump()]})
        return self._call("cancel", job_id, "failed", data, _call_id())[0] == "ok"

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
            "restore", job_id, json.dumps(fields), *map(json.dumps, tables), *contents, *history
        )
        return verdict == "ok"

    # --- a step's life --------------------------------------------------------------------------------------------

    def claim(self, job_id: str, step: str, ticket: int, token: str, lease_s: float, worker: str) -> Claim:
        """Ask for the right to run a step; with verdict "run" the token is the step's until its lease is lost."""
        verdict, found = self._call(
            "claim", job_id, step, ticket, token, int(lease_s * 1000), worker, LOSSES_UNTIL_ALONE
        )
        match verdict:
            case "run" | "alone":
                return Claim(verdict, retry=found[0], runs=found[1])
            case "done":
                return Claim(verdict)
            case _:
                return Claim("void", reason=found[0])

    def renew(self, held: Iterable[tuple[str, str, str]], lease_s: float) -> list[bool]:
        """Prolong leases, each given as (job, step, token); False for a step that is no longer the caller's."""
        pipe, script = self._client.pipeline(transaction=False), self._scripts.script("renew")
        for job_id, step, token in held:
            script(keys=[JobKeys(job_id).job], args=[step, token, int(lease_s * 1000)], client=pipe)
        return [json.loads(reply)[0] == "ok" for reply in pipe.execute()]

    def release(
        self, job_id: str, step: str, token: str, reason: str, wait_s: float = 0, retry: str = ""
    ) -> list[Dispatch] | Stale:
        """Give a running step back, for another worker now, or parked for some seconds; `retry` is for its next run."""
        wait_ms = int(wait_s * 1000)
        verdict, sent = self._call("release", job_id, step, token, whole_text(reason), wait_ms, retry)
        return _sent(verdict, sent)

    def succeed(
        self,
        job_id: str,
        step: str,
        token: str,
        result: StepResult,
        blobs: Mapping[str, bytes],
        data: Mapping[str, Any],
        growth: Growth | None = None,
    ) -> list[Dispatch] | Stale:
        """Commit a step's result with its files and contents: at most once, by the current token only.

        With `growth` the job's plan grows in the same act.
        """
        files = json.dumps([file.model_dump() for file in result.files])
        about = json.dumps({**data, **result.model_dump(exclude={"files"})})
        grown = (growth or Growth()).packed()
        return self._commit(
            job_id, step, token, "succeeded", result.model_dump_json(), about, files, *grown, *_packed(blobs)
        )

    def expand(
        self,
        job_id: str,
        step: str,
        token: str,
        growth: Growth,
        result: StepResult,
        blobs: Mapping[str, bytes],
        data: Mapping[str, Any],
    ) -> list[Dispatch] | Stale:
        """Let a running step make way for others: it ends with the last of them, with this result."""
        about = json.dumps({**data, **result.model_dump(exclude={"files"})})
        verdict, sent = self._call(
            "expand", job_id, step, token, *growth.packed(), result.model_dump_json(), about, *_packed(blobs)
        )
        return _sent(verdict, sent)

    def fail(
        self,
        job_id: str,
        step: str,
        token: str,
        failure: Failure,
        data: Mapping[str, Any],
        left: StepResult | None = None,
        blobs: Mapping[str, bytes] | None = None,
    ) -> list[Dispatch] | Stale:
        """Commit a step's failure; the job fails when no other of its steps runs any more.

        The artifacts of `left` are for people to read; no other step sees them.
        """
        artifacts = [one.model_dump() for one in left.artifacts] if left else []
        told = {**data, "kind": failure.kind, "message": failure.message}
        about = json.dumps({**told, "artifacts": artifacts} if artifacts else told)
        grown = Growth().packed()
        contents = _packed(blobs or {})
        return self._commit(
            job_id, step, token, "failed", failure.model_dump_json(), about, "[]", *grown, *contents
        )

    def _commit(self, job_id: str, step: str, *args: Any) -> list[Dispatch] | Stale:
        verdict, sent = self._call("commit", job_id, step, *args)
        return (
            [Dispatch(*one) for one in sent]
            if verdict == "ok"
            else Stale("the step is no longer this worker's")
        )

    def emit(self, job_id: str, step: str | None, *acts: Act) -> None:
        """Add events that change no state, in one go. Those of a job that Redis does not know are dropped."""
        told = [(kind, level, step or "", data) for kind, level, data in map(packed, acts)]
        self._call("emit", job_id, *(field for one in told for field in one))

    # --- recovery -------------------------------------------------------------------------------------------------

    def lead(
        self,
        worker: str,
        slots: int,
        ttl_s: float,
        settling_s: float,
        serves: Mapping[str, Any] | None = None,
    ) -> Lead | None:
        """Tell the fleet that a worker lives; a Lead if it is the one to look after all jobs now.

        Args:
            worker: Its name.
            slots: How many steps it runs at once; 0 when it is leaving.
            ttl_s: Seconds after which it counts as gone.
            settling_s: Seconds without a gap until leases may be acted on.
            serves: What it can do, for `fleet.workers`.
        """
        script = self._scripts.script("lead")
        args: list[str | int] = [
            worker,
            slots,
            int(ttl_s * 1000),
            int(settling_s * 1000),
            json.dumps(serves or {}),
        ]
        verdict, found = json.loads(script(args=args))
        return Lead(found[0] == "calm", tuple(found[1:])) if verdict == "lead" else None

    def recover(self, job_id: str, *, calm: bool, grace_s: float) -> list[Dispatch]:
        """Make good what died with a worker or got lost on its way; returns what is to be sent."""
        _, sent = self._call("recover", job_id, "calm" if calm else "rough", int(grace_s * 1000))
        return [Dispatch(*one) for one in sent]

    def stops(self) -> bytes:
        """A value that changes whenever a job ends: then workers look whether it is one of theirs."""
        raw: Any = self._client.get(FLEET["STOPS"])
        return raw or b""

    # --- reading --------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> dict[str, str]:
        """The job's hash, empty when Redis does not know the job."""
        fields: Any = self._client.hgetall(JobKeys(job_id).job)
        return {name.decode(): value.decode() for name, value in fields.items()}

    def spec(self, job_id: str) -> JobSpec:
        """The job's resolved spec."""
        raw: Any = self._client.hget(JobKeys(job_id).job, "spec")
        return JobSpec.model_validate_json(raw)

    def order(self, job_id: str) -> JobOrder:
        """What the job was submitted as."""
        fields = ["spec", "cache", "allow_failing_qa"]
        spec, cache, lenient = cast(
            "tuple[bytes, bytes, bytes]", self._client.hmget(JobKeys(job_id).job, fields)
        )
        return JobOrder(
            JobSpec.model_validate_json(spec), cast("CacheUse", (cache or b"use").decode()), bool(lenient)
        )

    def plan(self, job_id: str) -> Plan:
        """The job's plan as it is now, with what it has grown by."""
        raw: Any = self._client.hget(JobKeys(job_id).job, "plan")
        return Plan.of(PlannedStep(one[0], one[1], tuple(one[2])) for one in json.loads(raw))

    def files(self, job_id: str) -> dict[str, OutputFile]:
        """The job's files as they are now, by their path below outputs/."""
        raw: Any = self._client.hgetall(JobKeys(job_id).files)
        return {path.decode(): OutputFile.model_validate_json(one) for path, one in sorted(raw.items())}

    def succeeded(self, job_id: str) -> set[str]:
        """Ids of the steps that are done."""
        records: Any = self._client.hgetall(JobKeys(job_id).steps)
        return {step.decode() for step, raw in records.items() if json.loads(raw)["status"] == "succeeded"}

    def jobs(self) -> list[str]:
        """Ids of the jobs that Redis knows, newest first."""
        ids: Any = self._client.zrevrange(FLEET["JOBS"], 0, -1)
        return [one.decode() for one in ids]

    def results(self, job_id: str, steps: Sequence[str]) -> list[StepResult | None]:
        """Committed results, None where there is none."""
        raws: Any = self._client.hmget(JobKeys(job_id).results, list(steps)) if steps else []
        return [StepResult.model_validate_json(raw) if raw else None for raw in raws]

    def result(self, job_id: str, step: str) -> StepResult | None:
        """A step's committed result, None when there is none."""
        return self.results(job_id, [step])[0]

    def blobs(self, job_id: str, sha256s: Sequence[str]) -> list[bytes | None]:
        """Contents of the job by their hashes, None where Redis no longer has one."""
        raws: Any = self._client.hmget(JobKeys(job_id).blobs, list(sha256s)) if sha256s else []
        return [zlib.decompress(raw) if raw else None for raw in raws]

    def blob(self, job_id: str, sha256: str) -> bytes | None:
        """A content of the job by its hash, None when Redis no longer has it."""
        return self.blobs(job_id, [sha256])[0]


def _packed(blobs: Mapping[str, bytes]) -> list[str | bytes]:
    """Contents as scripts take them."""
    return [part for sha256, blob in blobs.items() for part in (sha256, zlib.compress(blob, 1))]


def _sent(verdict: str, sent: list[Any]) -> list[Dispatch] | Stale:
    return (
        [Dispatch(*one) for one in sent] if verdict == "ok" else Stale("the step is no longer this worker's")
    )


def _call_id() -> str:
    """Name a call, so that it can be told from its repetition after a lost reply."""
    return secrets.token_hex(8)
