"""One message, from claim to commit: the only place where a step's code meets the job's state."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any, Literal

from orchestrator.admission import Admission, BudgetExceeded, Holder
from orchestrator.cache import Cache, StepCache, make_cache
from orchestrator.calls import Asker
from orchestrator.child import Child
from orchestrator.choices import fallbacks, first, model_of
from orchestrator.connection import connect
from orchestrator.events import Act
from orchestrator.gateway import Gateway, ready_providers
from orchestrator.lease import Heartbeat, Hold
from orchestrator.models import JobSpec
from orchestrator.paths import safe_relative
from orchestrator.plan import MAX_STEPS
from orchestrator.records import Artifact, Failure, OutputFile, StepResult
from orchestrator.retry import Parked, Tries
from orchestrator.scripts import Scripts
from orchestrator.settings import Settings
from orchestrator.state import Claim, Dispatch, Growth, JobOrder, NewStep, Stale, State
from orchestrator.workers import Serves
from providers import Provider, ProviderError
from providers.registry import shared
from tasks.report import before_any_check
from tasks.rounds import RoundStep
from tasks.step import Output, Step, StepError, StepKind

log = logging.getLogger(__name__)

WORKER = f"{socket.gethostname()}:{os.getpid()}"
ALONE = "tasks.alone"
ALONE_CODES: dict[int, Literal["done", "failed", "back", "void"]] = {
    0: "done",
    10: "failed",
    11: "back",
    12: "void",
}
"""Exit codes of `tasks.alone`; any other means that the process died."""
ASKED_CODES = frozenset({130, 143, -signal.SIGINT, -signal.SIGTERM})
"""Or that a signal to the whole group (Ctrl-C, systemd) ended it, or its lifeline: the step is not to blame."""
LAST_WORDS_S = 0.5
"""How long a process that runs a step alone has to end by itself after its step has ended."""
ELSEWHERE_S = 0.5
"""How soon a step that this worker does not serve is offered again."""
MOST_JOBS = 100
BEFORE_CHECKS = frozenset({"architect", "file", "docs"})
"""Kinds without whose success no project is checked."""
MAX_FILE_BYTES = 4 << 20
MAX_STEP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a message ended, and the steps that are to be sent now.

    `done` (also when another run had done it), `void`, `failed` and why, or `back`: the step was given back.
    """

    outcome: Literal["done", "void", "failed", "back"]
    message: str = ""
    ready: tuple[Dispatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """The step can go on only after some seconds; meanwhile it shall hold no worker."""

    reason: str
    seconds: float
    tries: Tries | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A result to commit, its contents by their sha256, and what the plan grows by."""

    result: StepResult
    blobs: dict[str, bytes]
    growth: Growth = field(default_factory=Growth)
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """Why a step failed, and what it leaves for people to read."""

    failure: Failure
    left: Made | None = None


@dataclass(frozen=True)
class Runner:
    """Runs steps for this worker process. Shared by its threads."""

    state: State
    cache: Cache
    admission: Admission
    heartbeat: Heartbeat
    create_provider: Callable[[str, str | None], Provider]
    settings: Settings
    serves: Serves = field(default_factory=Serves)
    _jobs: dict[str, JobOrder] = field(default_factory=dict)

    def run(self, kind: StepKind, job_id: str, step_id: str, ticket: int) -> Ended:
        """Claim the step, run its code, commit what it made."""
        token = secrets.token_hex(16)
        claim = self.state.claim(job_id, step_id, ticket, token, self.settings.orch_lease_s, WORKER)
        if claim.verdict in ("done", "void"):
            return Ended("done" if claim.verdict == "done" else "void", claim.reason)
        with self.heartbeat.holding(job_id, step_id, token) as hold:
            if claim.verdict == "alone":
                return self._alone(hold, claim)
            return self.execute(kind, hold, claim)

    def execute(self, kind: StepKind, hold: Hold, claim: Claim) -> Ended:
        """Run the code of a claimed step and commit what it made."""
        started = time.monotonic()
        ended = self._attempt(kind, hold, claim)
        about = {"duration_s": round(time.monotonic() - started, 6)}
        if not isinstance(ended, Made):
            return self.give_up(hold, ended, about)
        holder, made = (hold.job_id, hold.step, hold.token), (ended.result, ended.blobs, about)
        if ended.waits:  # its canvas may go on: what follows is sent anew when the step is done
            return _told("done", self.state.expand(*holder, ended.growth, *made))
        return _told("done", self.state.succeed(*holder, *made, ended.growth))

    def give_up(self, hold: Hold, ended: Broken | Wait, about: dict[str, Any]) -> Ended:
        """Commit that a step failed, or give it back: because it has to wait, or because this worker has to go."""
        if hold.reason == "shutdown":
            ended = Wait("its worker was shut down", 0)
        if isinstance(ended, Wait):
            retry = ended.tries.model_dump_json() if ended.tries else ""
            sent = self.state.release(hold.job_id, hold.step, hold.token, ended.reason, ended.seconds, retry)
            return _told("back", sent, ended.reason)
        if hold.reason == "timeout":
            message = f"the step did not end within its timeout_s of {hold.limit_s:g} s"
            ended = Broken(Failure(step=hold.step, kind="timeout", message=message))
        left = (ended.left.result, ended.left.blobs) if ended.left else ()
        sent = self.state.fail(hold.job_id, hold.step, hold.token, ended.failure, about, *left)
        return _told("failed", sent, ended.failure.message)

    def _attempt(self, kind: StepKind, hold: Hold, claim: Claim) -> Made | Broken | Wait:
        """Run the step's code; whatever it raises becomes a Failure that tells the user what to do."""
        try:
            step = self._step(kind, hold, claim)
            hold.limit(step.step.timeout_s)
            output = kind.run(step)
            growth = grown(
                step.spec, output.adds, len(output.adds) and len(self.state.plan(hold.job_id).steps)
            )
            return replace(pack(step.spec.project, hold.step, output), growth=growth, waits=output.waits)
        except Parked as parked:
            return Wait(parked.reason, parked.seconds, parked.tries)
        except (StepError, ProviderError, BudgetExceeded) as error:
            left = error.left if isinstance(error, StepError) else None
            return self._broken(kind, hold, error.kind, str(error), left)
        except Exception as error:
            log.exception("step %s/%s", hold.job_id, hold.step)
            return self._broken(kind, hold, "internal", f"{type(error).__name__}: {error}"[:500])

    def _broken(
        self, kind: StepKind, hold: Hold, why: str, message: str, left: Output | None = None
    ) -> Broken:
        """A failure with what the step leaves; a project that will never be checked has a report that says so."""
        if left is None and kind.name in BEFORE_CHECKS and RoundStep.of(hold.step).round == 1:
            left = Output(artifacts=before_any_check(hold.step, message))
        failure = Failure(step=hold.step, kind=why, message=message)
        return Broken(failure, pack(self._spec(hold).project, hold.step, left) if left else None)

    def _alone(self, hold: Hold, claim: Claim) -> Ended:
        """Run a step that workers died with in a process of its own, which claims nothing and commits itself."""
        hold.limit(self._spec(hold).step(hold.step).timeout_s)
        command = [sys.executable, "-m", ALONE, hold.job_id, hold.step, hold.token, claim.retry]
        child = Child(command, own_group=False)
        while (code := child.wait(0.1)) is None:
            if not hold.stopped.is_set():
                continue
            if hold.reason == "lost" and (code := child.wait(LAST_WORDS_S)) is not None:
                break  # the step was no longer running because the child had committed it
            child.end()
            if hold.reason == "lost":
                return Ended("void", "the step is no longer this worker's")
            failure = Failure(step=hold.step, kind="cancelled", message="the step was stopped")
            return self.give_up(hold, Broken(failure), {})
        if code in ALONE_CODES:
            return Ended(ALONE_CODES[code])
        if code in ASKED_CODES:
            return self.give_up(hold, Wait("its process was asked to end", 0), {})
        message = (
            f"the process that ran nothing but this step died (exit code {code}), as two workers did before"
        )
        return self.give_up(hold, Broken(Failure(step=hold.step, kind="poison", message=message)), {})

    def _spec(self, hold: Hold) -> JobSpec:
        return self._job(hold).spec

    def _job(self, hold: Hold) -> JobOrder:
        """What the job was submitted as, which never changes under its id."""
        if (job := self._jobs.get(hold.job_id)) is None:
            if len(self._jobs) >= MOST_JOBS:
                self._jobs.clear()
            job = self._jobs[hold.job_id] = self.state.order(hold.job_id)
        return job

    def _step(self, kind: StepKind, hold: Hold, claim: Claim) -> Step:
        spec = self._spec(hold)
        step = spec.step(hold.step)
        emit = partial(self.state.emit, hold.job_id, hold.step)
        names, model = fallbacks(step.provider or spec.provider), model_of(spec, step)
        tries = Tries.model_validate_json(claim.retry) if claim.retry else None
        if not self.serves.takes(names, model):
            raise Parked(f"a worker that serves {names[0]} {model or ''}".rstrip(), ELSEWHERE_S, tries)
        if self.serves.provider == names[0]:
            model = model or self.serves.model
        ready = ready_providers(names, model, self.create_provider)
        for name in takewhile(lambda name: name != ready[0].name, names):
            about = {"from": name, "to": ready[0].name, "reason": "not_ready"}
            emit(Act("provider.fallback", about, "WARN"))
        asker = Asker(
            holder=Holder(hold.job_id, hold.step, hold.token),
            kind=kind.name,
            version=kind.version,
            providers=ready,
            options={**spec.options, **step.options},
            emit=emit,
            cancelled=hold.stopped,
            retries=self.settings.provider_max_retries if step.retries is None else step.retries,
            tries=tries,
            again=claim.runs > 1,
        )
        cache = StepCache(self.cache, hold.job_id, hold.step, self._job(hold).cache)
        gateway = Gateway(cache, self.admission, asker)
        return Step(
            hold.job_id, spec, step, gateway, emit, self.state, self._job(hold), self.settings, hold.stopped
        )


def make_runner(settings: Settings, redis_url: str) -> Runner:
    """The runner of a worker process on that Redis."""
    client, lease_s = connect(redis_url, patient=True), settings.orch_lease_s
    return Runner(
        state=State(client),
        cache=make_cache(client, settings),
        admission=Admission(Scripts(client), settings.provider_cb_threshold, settings.provider_cb_cooldown_s),
        heartbeat=Heartbeat(State(connect(redis_url, timeout_s=max(1, lease_s / 3))), lease_s),
        create_provider=partial(shared, config=settings.provider_config),
        settings=settings,
        serves=Serves.from_environment(),
    )


def grown(spec: JobSpec, adds: Sequence[NewStep], before: int) -> Growth:
    """Added steps with the provider and model that they ask; `before` is how many steps the job has.

    Raises:
        StepError: The plan would be larger than a plan may be.
    """
    if before + len(adds) > MAX_STEPS:
        raise StepError("too_large", f"with {len(adds)} steps more the job has over {MAX_STEPS}")
    told = ((one, spec.step(one.id)) for one in adds)
    return Growth(
        tuple(
            replace(one, provider=first(step.provider or spec.provider), model=model_of(spec, step))
            for one, step in told
        )
    )


def pack(project: str, step_id: str, output: Output) -> Made:
    """Turn an output into the result to commit and its contents by their sha256.

    Raises:
        StepError: A path would leave the project's folder, or a content is too large.
    """
    blobs: dict[str, bytes] = {}

    def keep(name: str, content: str) -> dict[str, Any]:
        raw = content.encode(errors="replace")
        if len(raw) > MAX_FILE_BYTES:
            raise StepError("too_large", f"{name} has {len(raw)} bytes; a file has at most {MAX_FILE_BYTES}")
        sha256 = hashlib.sha256(raw).hexdigest()
        blobs[sha256] = raw
        return {"sha256": sha256, "size_bytes": len(raw)}

    artifacts = dict(output.artifacts)
    text_name = f"{step_id}.txt" if output.text is not None else None
    if text_name and output.text is not None:
        artifacts[text_name] = output.text
    try:
        files = tuple(
            OutputFile(path=f"{project}/{safe_relative(path)}", step=step_id, **keep(path, content))
            for path, content in sorted(output.files.items())
        )
    except ValueError as error:
        raise StepError("unsafe_path", str(error)) from error
    result = StepResult(
        text=text_name,
        artifacts=tuple(
            Artifact(name=name, **keep(name, content)) for name, content in sorted(artifacts.items())
        ),
        files=files,
        data=dict(output.data),
    )
    if sum(map(len, blobs.values())) > MAX_STEP_BYTES:
        raise StepError("too_large", f"step {step_id} made more than {MAX_STEP_BYTES} bytes")
    return Made(result, blobs)


def _told(
    outcome: Literal["done", "failed", "back"], sent: list[Dispatch] | Stale, message: str = ""
) -> Ended:
    return Ended("void", sent.reason) if isinstance(sent, Stale) else Ended(outcome, message, tuple(sent))
