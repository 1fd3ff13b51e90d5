"""A job as its events tell it: the fold that `show`, the live view, the manifest and resume all read.

Nothing here touches Redis or a disk, so the same fold serves a live stream and an old run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from orchestrator.events import FINAL, Event, iso
from orchestrator.records import SCHEMA_VERSION, Failure, JobStatus, OutputFile, StepResult, StepStatus


@dataclass(slots=True)
class Figures:
    """What LLM calls amounted to. A cost that nobody knows makes the sum unknown (None), never 0."""

    provider_calls: int = 0
    cache_hits: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = 0.0

    def add_response(self, event: Event) -> None:
        """Count what a provider's answer took."""
        self.tokens_in += event.get("tokens_in") or 0
        self.tokens_out += event.get("tokens_out") or 0
        cost = event.get("cost_usd")
        self.cost_usd = None if cost is None or self.cost_usd is None else round(self.cost_usd + cost, 9)

    def to_json(self) -> dict[str, Any]:
        """The figures under their contract names."""
        return {
            "provider_calls": self.provider_calls,
            "cache_hits": self.cache_hits,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost_usd": self.cost_usd,
        }


@dataclass(slots=True)
class StepProgress:
    """One step so far. Times are ms since the epoch."""

    id: str
    kind: str
    needs: tuple[str, ...] = ()
    provider: str | None = None
    model: str | None = None
    status: StepStatus = "pending"
    attempt: int = 1
    runs: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    error: str | None = None
    figures: Figures = field(default_factory=Figures)
    asked: set[str] = field(default_factory=set)  # cache keys of its questions
    result: StepResult | None = None
    parked: dict[str, Any] | None = None
    fallbacks: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self, waiting: dict[str, Any] | None = None) -> dict[str, Any]:
        """The step as `show --json` and the manifest have it; `waiting` is known to who sees all steps."""
        return {
            "kind": self.kind,
            "status": self.status,
            "attempt": self.attempt,
            "runs": self.runs,
            "started_at": _time(self.started_ms),
            "finished_at": _time(self.finished_ms),
            "duration_s": _seconds(self.started_ms, self.finished_ms),
            "provider": self.provider,
            "model": self.model,
            **self.figures.to_json(),
            "error": self.error,
            "waiting": waiting,
            "fallbacks": self.fallbacks,
        }


class Progress:
    """The state of one job after the events applied so far. Apply them in order, each once."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.about: dict[str, Any] = {}
        self.status: JobStatus = "queued"
        self.attempt = 1
        self.steps: dict[str, StepProgress] = {}
        self.files: dict[str, OutputFile] = {}
        self.failures: list[Failure] = []
        self.created_ms: int | None = None
        self.started_ms: int | None = None
        self.finished_ms: int | None = None
        self.last_id = "0"

    @classmethod
    def of(cls, job_id: str, events: Iterable[Event]) -> Progress:
        """Fold a whole history."""
        progress = cls(job_id)
        for event in events:
            progress.apply(event)
        return progress

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return f"job.{self.status}" in FINAL

    def completed(self) -> list[str]:
        """Ids of the steps whose result is committed, in plan order."""
        return [step.id for step in self.steps.values() if step.status in ("succeeded", "skipped")]

    def pending(self) -> list[str]:
        """Ids of all other steps, in plan order."""
        done = set(self.completed())
        return [step for step in self.steps if step not in done]

    def waiting(self, step: StepProgress) -> dict[str, Any] | None:
        """What a step waits for, and until when where that is known; None when it does not wait."""
        if self.over:
            return None
        if step.parked:
            return step.parked
        if step.status == "queued":
            which = " that runs mlx models" if step.provider == "mlx" else ""
            return {"reason": f"a free worker{which}", "until": None}
        if step.status != "pending":
            return None
        if self.failures_seen:
            return {
                "reason": "nothing: another step failed, and the job ends with those that run",
                "until": None,
            }
        unmet = [need for need in step.needs if self.steps[need].status != "succeeded"]
        place = (
            f"a place: the job's concurrency is {self.about.get('concurrency')}, and others have their share"
        )
        return {"reason": f"steps: {', '.join(unmet)}" if unmet else place, "until": None}

    @property
    def failures_seen(self) -> bool:
        """Whether a step has failed in this attempt."""
        return any(step.status == "failed" for step in self.steps.values())

    def usage(self) -> Figures:
        """The sum over all steps."""
        total = Figures()
        for one in (step.figures for step in self.steps.values()):
            total.provider_calls += one.provider_calls
            total.cache_hits += one.cache_hits
            total.tokens_in += one.tokens_in
            total.tokens_out += one.tokens_out
            total.cost_usd = None if None in (one.cost_usd, total.cost_usd) else total.cost_usd + one.cost_usd  # type: ignore[operator]
        return total

    def next_commands(self) -> list[str]:
        """What a user would type next in the project's folder, as the steps' `data.next` say."""
        said = [step.result.data.get("next") for step in self.steps.values() if step.result]
        return [str(command) for commands in said if isinstance(commands, list) for command in commands]

    def to_json(self) -> dict[str, Any]:
        """The document of `orch show --json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "job_id": self.job_id,
            "project": self.about.get("project"),
            "status": self.status,
            "attempt": self.attempt,
            "provider": self.about.get("provider"),
            "model": self.about.get("model"),
            "created_at": _time(self.created_ms),
            "started_at": _time(self.started_ms),
            "finished_at": _time(self.finished_ms),
            "duration_s": _seconds(self.started_ms, self.finished_ms),
            "steps": {step.id: step.to_json(self.waiting(step)) for step in self.steps.values()},
            "completed_steps": self.completed(),
            "pending_steps": self.pending(),
            "files": [
                file.model_dump(include={"path", "sha256", "size_bytes"})
                for _, file in sorted(self.files.items())
            ],
            "failures": [failure.model_dump() for failure in self.failures],
            "usage": self.usage().to_json(),
        }

    def apply(self, event: Event) -> None:
        """Take one event into account; a type that changes no figure is passed over."""
        self.last_id = event.id
        if event.type in self._ON_JOB:
            self._ON_JOB[event.type](self, event)
        elif event.step in self.steps and event.type in self._ON_STEP:
            self._ON_STEP[event.type](self, event, self.steps[event.step])

    # --- the job --------------------------------------------------------------------------------------------------

    def _submitted(self, event: Event) -> None:
        self.about, self.created_ms = event.data or {}, event.at_ms
        for step in event.get("steps", []):
            known = {name: step.get(name) for name in ("id", "kind", "provider", "model")}
            self.steps[step["id"]] = StepProgress(**known, needs=tuple(step["needs"]))

    def _started(self, event: Event) -> None:
        self.status, self.finished_ms = "running", None
        self.started_ms = self.started_ms or event.at_ms

    def _resumed(self, event: Event) -> None:
        self.status, self.attempt, self.finished_ms = "queued", event.get("attempt"), None
        self.failures.clear()
        done = set(self.completed())
        for step in self.steps.values():
            step.status, step.error, step.parked = "pending", None, None
            if step.id not in done:
                step.started_ms = step.finished_ms = None

    def _ended(self, event: Event) -> None:
        self.finished_ms = event.at_ms
        self.status = event.type.removeprefix("job.")  # type: ignore[assignment]
        cut_short: StepStatus = "cancelled" if self.status == "cancelled" else "pending"
        for step in self.steps.values():
            if step.status in ("queued", "running") or step.parked:
                step.status, step.parked = cut_short, None
        for failure in event.get("failures", []):
            self.failures.append(Failure.model_validate(failure))

    def _expanded(self, event: Event) -> None:
        for step in event.get("steps", []):
            if step["id"] not in self.steps:
                known = {name: step.get(name) for name in ("id", "kind", "provider", "model")}
                self.steps[step["id"]] = StepProgress(**known, needs=tuple(step["needs"]))

    # --- its steps ------------------------------------------------------------------------------------------------

    def _step_queued(self, _: Event, step: StepProgress) -> None:
        step.status, step.parked = "queued", None

    def _step_lost(self, _: Event, step: StepProgress) -> None:
        step.status, step.started_ms, step.finished_ms = "pending", None, None

    def _step_retrying(self, event: Event, step: StepProgress) -> None:
        if event.get("inline"):
            return  # it goes on in the same run
        step.status, step.started_ms, step.finished_ms = "pending", None, None
        if wait_ms := event.get("wait_ms"):
            step.parked = {"reason": event.get("reason"), "until": iso(event.at_ms + wait_ms)}

    def _step_skipped(self, _: Event, step: StepProgress) -> None:
        step.status = "succeeded"

    def _step_started(self, event: Event, step: StepProgress) -> None:
        step.status, step.started_ms, step.finished_ms, step.result = "running", event.at_ms, None, None
        step.attempt, step.runs = event.get("attempt", 1), event.get("runs", step.runs + 1)

    def _step_succeeded(self, event: Event, step: StepProgress) -> None:
        step.status, step.finished_ms, step.error = "succeeded", event.at_ms, None
        step.result = StepResult(
            text=event.get("text"),
            artifacts=event.get("artifacts", []),
            files=step.result.files if step.result else (),
            data=event.get("data", {}),
        )

    def _step_failed(self, event: Event, step: StepProgress) -> None:
        step.status, step.finished_ms, step.error = "failed", event.at_ms, event.get("message")

    def _file_written(self, event: Event, step: StepProgress) -> None:
        known = {name: event.get(name) for name in ("path", "sha256", "size_bytes", "mode")}
        file = self.files[known["path"]] = OutputFile.model_validate(known)
        others = tuple(one for one in (step.result.files if step.result else ()) if one.path != file.path)
        step.result = (step.result or StepResult()).model_copy(update={"files": (*others, file)})

    def _response(self, event: Event, step: StepProgress) -> None:
        step.figures.add_response(event)
        step.provider, step.model = event.get("provider", step.provider), event.get("model", step.model)

    def _request(self, _: Event, step: StepProgress) -> None:
        step.figures.provider_calls += 1

    def _cache_miss(self, event: Event, step: StepProgress) -> None:
        step.asked.add(event.get("key"))

    def _cache_hit(self, event: Event, step: StepProgress) -> None:
        step.asked.add(event.get("key"))
        step.figures.cache_hits += 1
        step.provider, step.model = event.get("provider", step.provider), event.get("model", step.model)

    def _fallback(self, event: Event, step: StepProgress) -> None:
        step.fallbacks.append({name: event.get(name) for name in ("from", "to", "reason")})

    _ON_JOB: ClassVar[dict[str, Callable[[Progress, Event], None]]] = {
        "job.submitted": _submitted,
        "job.started": _started,
        "plan.expanded": _expanded,
        "job.resumed": _resumed,
        "job.succeeded": _ended,
        "job.failed": _ended,
        "job.cancelled": _ended,
    }
    _ON_STEP: ClassVar[dict[str, Callable[[Progress, Event, StepProgress], None]]] = {
        "step.queued": _step_queued,
        "step.lost": _step_lost,
        "step.retrying": _step_retrying,
        "step.skipped": _step_skipped,
        "step.started": _step_started,
        "step.succeeded": _step_succeeded,
        "step.failed": _step_failed,
        "file.written": _file_written,
        "llm.request": _request,
        "llm.response": _response,
        "cache.hit": _cache_hit,
        "cache.miss": _cache_miss,
        "provider.fallback": _fallback,
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


def _seconds(start_ms: int | None, end_ms: int | None) -> float | None:
    return None if start_ms is None or end_ms is None else (end_ms - start_ms) / 1000
