"""A fleet in small: jobs on a real Redis, steps of them claimed as a worker claims them, and gateways for those."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from orchestrator.admission import Admission, Holder
from orchestrator.cache import Cache, StepCache
from orchestrator.calls import Asker
from orchestrator.events import Act, Event
from orchestrator.gateway import Gateway
from orchestrator.jobs import budget_fields
from orchestrator.lease import Heartbeat
from orchestrator.models import Budget, JobSpec
from orchestrator.names import FLEET, JobKeys
from orchestrator.records import CacheUse, Failure, StepResult
from orchestrator.retry import Tries
from orchestrator.scripts import Scripts
from orchestrator.settings import Settings
from orchestrator.state import Dispatch, State
from orchestrator.stream import read_all
from providers import Message, Provider
from tasks.runner import Runner

PROMPT = "xyzzy-the-prompt"
QUESTION: list[Message] = [{"role": "user", "content": PROMPT}]
LEASE_S = 30.0
Make = Callable[[str, str | None], Provider]


class Fleet:
    """Jobs, and what a worker has to run their steps with."""

    def __init__(self, client: redis.Redis, folder: Path, threshold: int = 5, cooldown_s: float = 30) -> None:
        self.client = client
        self.folder = folder
        self.state = State(client)
        self.cache = Cache(client, folder, 1000)
        self.admission = Admission(Scripts(client), threshold, cooldown_s)
        client.set(FLEET["SLOTS"], 1000)

    def submit(
        self,
        *steps: str,
        cache: CacheUse = "use",
        budget: dict[str, Any] | None = None,
        of_steps: dict[str, Any] | None = None,
        distinct: bool = False,
        **spec: Any,
    ) -> Job:
        """Submit a job of steps that need nothing; all of them are dispatched at once.

        They ask the same question, unless they are to be distinct.
        """
        names = steps or ("only",)
        known = {"project": "p", "task_description": "anything", "provider": "openai", "concurrency": 1000}
        asked = [
            {"id": name, "prompt": f"{PROMPT} {name}" if distinct else PROMPT, **(of_steps or {})}
            for name in names
        ]
        job_spec = JobSpec.model_validate({**known, **spec, "steps": asked})
        job_id = f"job_{secrets.token_hex(6)}"
        fields = {
            "spec": job_spec.model_dump_json(),
            "source": "",
            "plan": json.dumps([[name, "prompt", []] for name in names]),
            "driver": "ready",
            "concurrency": 1000,
            "timeout_ms": 900_000,
            "ttl_s": 100,
            "cache": cache,
            **budget_fields(Budget.model_validate(budget) if budget else None),
        }
        about = {"steps": [{"id": name, "kind": "prompt", "needs": []} for name in names]}
        time.sleep(0.002)  # by the clock of Redis, in ms, a job is younger than what was there before
        sent = self.state.submit(job_id, fields, {}, about)
        time.sleep(0.002)  # and older than what it leaves
        return Job(self, job_id, cache, {one.step: one for one in sent})

    def run(self, **job: Any) -> Run:
        """Claim the only step of a new job."""
        return self.submit(**job).claim()

    def runner(self, make: Make, **settings: Any) -> Runner:
        """A worker's runner over these providers."""
        known: dict[str, Any] = {"orch_lease_s": LEASE_S, "provider_max_retries": 3, **settings}
        heartbeat = Heartbeat(self.state, known["orch_lease_s"])
        return Runner(
            self.state, self.cache, self.admission, heartbeat, make, Settings(_env_file=None, **known)
        )

    def left(self) -> set[str]:
        """Names of all keys that running steps hold something under: none are left when no step runs."""
        found = set()
        for pattern in (
            f"{FLEET['HOLDS']}*",
            f"{FLEET['FLIGHT']}*",
            f"{FLEET['LIMIT']}*:running",
            "*:reserved",
        ):
            found |= {key.decode() for key in self.client.scan_iter(pattern)}
        for key in self.client.scan_iter(f"{FLEET['CIRCUIT']}*"):
            if self.client.hexists(key, "probe"):
                found.add(f"the probe of {key.decode()}")
        return found


@dataclass
class Job:
    """A job of the fleet."""

    fleet: Fleet
    id: str
    use: CacheUse
    sent: dict[str, Dispatch]

    def claim(self, step: str = "", *, lease_s: float = LEASE_S, worker: str = "worker:1") -> Run:
        """Claim a step of it that was dispatched."""
        one = self.sent[step] if step else next(iter(self.sent.values()))
        token = secrets.token_hex(16)
        claim = self.fleet.state.claim(self.id, one.step, one.ticket, token, lease_s, worker)
        assert claim.verdict in ("run", "alone"), claim
        return Run(self, Holder(self.id, one.step, token), claim.retry, again=claim.runs > 1)

    def claim_all(self) -> list[Run]:
        """Claim every step that was dispatched."""
        return [self.claim(step) for step in self.sent]

    def again(self, *, at_once: bool = True) -> None:
        """Recover the job; `at_once` when parked steps are taken to be due."""
        if at_once:
            parked = f"{JobKeys(self.id).job}:parked"
            for step in self.fleet.client.zrange(parked, 0, -1):
                self.fleet.client.zadd(parked, {step: 1})
        for one in self.fleet.state.recover(self.id, calm=True, grace_s=1000):
            self.sent[one.step] = one

    def lose(self, step: str = "") -> None:
        """Let the lease of a step run out, and recover it."""
        name = step or next(iter(self.sent))
        self.fleet.client.zadd(f"{JobKeys(self.id).job}:leases", {name: 1}, xx=True)
        self.again(at_once=False)

    def events(self, *types: str) -> list[Event]:
        """What its stream told until now, of these types."""
        told = read_all(self.fleet.client, self.id)
        return [event for event in told if not types or event.type in types]

    @property
    def types(self) -> list[str]:
        """The types of its events that are not about the job's own course."""
        return [one.type for one in self.events() if not one.type.startswith(("job.", "step."))]


@dataclass
class Run:
    """A claimed step, and its way to providers."""

    job: Job
    holder: Holder
    retry: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)
    again: bool = False

    def gateway(
        self,
        *providers: Provider,
        retries: int = 0,
        kind: str = "prompt",
        options: dict[str, Any] | None = None,
    ) -> Gateway:
        """A gateway for this step."""
        state, (job_id, step) = self.job.fleet.state, (self.holder.job_id, self.holder.step)

        def emit(*acts: Act) -> None:
            state.emit(job_id, step, *acts)

        asker = Asker(
            holder=self.holder,
            kind=kind,
            version="v1",
            providers=providers,
            options=options or {},
            emit=emit,
            cancelled=self.cancelled,
            retries=retries,
            tries=Tries.model_validate_json(self.retry) if self.retry else None,
            again=self.again,
        )
        cache = StepCache(self.job.fleet.cache, job_id, step, self.job.use)
        return Gateway(cache, self.job.fleet.admission, asker)

    def ask(
        self,
        *providers: Provider,
        question: Sequence[Message] = QUESTION,
        read: Callable[[str], str] = str,
        **more: Any,
    ) -> str:
        """Ask for text, and read it."""
        return self.gateway(*providers, **more).generate(question, read)

    def succeed(self) -> None:
        self.job.fleet.state.succeed(*self._names, StepResult(), {}, {})

    def fail(self) -> None:
        failure = Failure(step=self.holder.step, kind="qa", message="it did not work")
        self.job.fleet.state.fail(*self._names, failure, {})

    def release(self, wait_s: float = 0, retry: str = "") -> None:
        """Give the step back, or park it; what is dispatched then is the job's to claim."""
        sent = self.job.fleet.state.release(*self._names, "it has to wait", wait_s, retry)
        assert isinstance(sent, list), sent
        self.job.sent |= {one.step: one for one in sent}

    @property
    def _names(self) -> tuple[str, str, str]:
        return self.holder.job_id, self.holder.step, self.holder.token


def told(run: Run, kind: str) -> list[dict[str, Any]]:
    """The data of a job's events of one type."""
    return [dict(event.data or {}) for event in run.job.events(kind)]


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """Do all of this in a thread each, begun together; what each returned, or the error that it raised."""
    ready = threading.Barrier(len(work))

    def do(one: Callable[[], Any]) -> Any:
        ready.wait(20)
        try:
            return one()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(do, work))


def eventually(true: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"it stayed {found!r}"
        time.sleep(0.01)
