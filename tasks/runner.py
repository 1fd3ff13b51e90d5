"""One message, from claim to commit: the only place where a step's code meets the job's state."""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Literal

from orchestrator.cache import Cache
from orchestrator.choices import fallbacks, model_of
from orchestrator.gateway import Asker, Gateway, ready_providers
from orchestrator.lease import Heartbeat
from orchestrator.models import JobSpec
from orchestrator.paths import safe_relative
from orchestrator.records import Artifact, Failure, OutputFile, StepResult
from orchestrator.state import Dispatch, Stale, State
from providers import Provider, ProviderError
from tasks.step import Output, Step, StepError, StepKind

log = logging.getLogger(__name__)

WORKER = socket.gethostname()
MAX_FILE_BYTES = 4 << 20
MAX_STEP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a message ended: `done` (also when another run had done it), `void`, or `failed` and why."""

    outcome: Literal["done", "void", "failed"]
    message: str = ""
    ready: tuple[Dispatch, ...] = ()


@dataclass(frozen=True)
class Runner:
    """Runs steps for this worker process. Shared by its threads."""

    state: State
    cache: Cache
    heartbeat: Heartbeat
    create_provider: Callable[[str, str | None], Provider]
    lease_s: float

    def run(self, kind: StepKind, job_id: str, step_id: str, ticket: int) -> Ended:
        """Claim the step, run its code, commit what it made."""
        token = secrets.token_hex(16)
        claim = self.state.claim(job_id, step_id, ticket, token, self.lease_s, WORKER)
        if claim.verdict != "run":
            return Ended("done" if claim.verdict == "done" else "void", claim.reason)
        with self.heartbeat.holding(job_id, step_id, token) as lost:
            started = time.monotonic()
            ended = self._attempt(kind, job_id, step_id, lost)
            about = {"duration_s": round(time.monotonic() - started, 6)}
            if isinstance(ended, Failure):
                sent = self.state.fail(job_id, step_id, token, ended, about)
                return (
                    Ended("failed", ended.message)
                    if not isinstance(sent, Stale)
                    else Ended("void", sent.reason)
                )
            result, blobs = ended
            sent = self.state.succeed(job_id, step_id, token, result, blobs, about)
        return Ended("void", sent.reason) if isinstance(sent, Stale) else Ended("done", ready=tuple(sent))

    def _attempt(
        self, kind: StepKind, job_id: str, step_id: str, lost: threading.Event
    ) -> tuple[StepResult, dict[str, bytes]] | Failure:
        """Run the step's code; whatever it raises becomes a Failure that tells the user what to do."""
        try:
            step = self._step(kind, job_id, step_id, lost)
            return pack(step.spec.project, step_id, kind.run(step))
        except (StepError, ProviderError) as error:
            return Failure(step=step_id, kind=error.kind, message=str(error))
        except Exception as error:
            log.exception("step %s/%s", job_id, step_id)
            return Failure(step=step_id, kind="internal", message=f"{type(error).__name__}: {error}"[:500])

    def _step(self, kind: StepKind, job_id: str, step_id: str, lost: threading.Event) -> Step:
        spec = JobSpec.model_validate_json(self.state.job(job_id)["spec"])
        step = spec.step(step_id)
        emit = partial(_emit, self.state, job_id, step_id)
        names = step.provider or spec.provider
        ready = ready_providers(fallbacks(names), model_of(spec, step), self.create_provider)
        for name in takewhile(lambda name: name != ready[0].name, fallbacks(names)):
            emit("provider.fallback", {"from": name, "to": ready[0].name, "reason": "not_ready"}, "WARN")
        asker = Asker(
            kind=kind.name,
            version=kind.version,
            providers=ready,
            options={**spec.options, **step.options},
            emit=emit,
            cancelled=lost,
        )
        return Step(job_id, spec, step, Gateway(self.cache, asker), emit, self.state)


def pack(project: str, step_id: str, output: Output) -> tuple[StepResult, dict[str, bytes]]:
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
            OutputFile(path=f"{project}/{safe_relative(path)}", **keep(path, content))
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
    return result, blobs


def _emit(state: State, job_id: str, step_id: str, kind: Any, data: Any = None, level: Any = "INFO") -> None:
    state.emit(job_id, kind, step_id, data, level)
