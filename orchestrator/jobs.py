"""What one can do with a job: submit, follow, resume, cancel, find. The command line calls this and prints."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import celery
import redis
from celery import Celery

from orchestrator import __version__
from orchestrator.canvas import Driver, choose_driver, part, send_canvas, send_each
from orchestrator.choices import fallbacks, first, model_of
from orchestrator.errors import OrchError, UsageError
from orchestrator.events import Event
from orchestrator.fleet import workers
from orchestrator.models import Budget, JobSpec
from orchestrator.names import MLX_QUEUE
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.records import CacheUse
from orchestrator.runfolder import ContentChanged, RunFolder
from orchestrator.series_parallel import PlannedStep
from orchestrator.spec import LoadedSpec
from orchestrator.state import Dispatch, Stale, State
from orchestrator.stream import follow, read_all


@dataclass(frozen=True)
class Jobs:
    """The jobs of one Redis."""

    client: redis.Redis
    app: Celery
    result_ttl_s: int

    @property
    def state(self) -> State:
        """Their state."""
        return State(self.client)

    def submit(
        self, loaded: LoadedSpec, spec: JobSpec, cache: CacheUse = "use", *, allow_failing_qa: bool = False
    ) -> str:
        """Store a job and send its first attempt.

        Args:
            loaded: The spec as the user wrote it.
            spec: The same after `choices.resolve`: with a provider and a concurrency.
            cache: How the job uses the cache.
            allow_failing_qa: Whether the job may succeed although hard checks of qa fail.
        """
        job_id, plan = f"job_{secrets.token_hex(6)}", spec.plan()
        order = {"cache": cache, **({"allow_failing_qa": 1} if allow_failing_qa else {})}
        fields = self._fields(spec, plan) | {"source": loaded.source} | order | budget_fields(spec.budget)
        sent = self.state.submit(job_id, fields, plan.dependents, about(loaded, spec) | order)
        self._send(job_id, plan, sent, fields["driver"])
        return job_id

    def resume(
        self,
        job_id: str,
        *,
        force: bool = False,
        lost: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Begin another attempt at what is not done yet.

        Args:
            job_id: A job that Redis knows.
            force: Also when the job succeeded or is under way.
            lost: What `restore` returned, for the events.
            budget: Goes before the job's own, figure by figure. What was spent stays spent.

        Raises:
            UsageError: The job succeeded, or is under way.
        """
        spec = self.state.spec(job_id)
        plan, done = self.state.plan(job_id), self.state.succeeded(job_id)
        todo = [step.id for step in plan.steps if step.id not in done]
        driver = choose_driver(part(plan, todo), _concurrency(spec)) if todo else "ready"
        sent = self.state.resume(job_id, driver, budget_fields(budget), force=force, lost=lost)
        if isinstance(sent, Stale):
            raise UsageError(
                f"{job_id} is {sent.reason}: there is nothing to resume; --force does it all the same"
            )
        self._send(job_id, plan, sent, driver)

    def restore(self, folder: RunFolder) -> dict[str, str]:
        """Bring back a job that this Redis does not know, from its run folder.

        A step counts as done only while every content it left is in the folder unchanged. Returns the steps that were
        done and count no longer, each with the reason.
        """
        progress = folder.progress()
        if progress.created_ms is None:
            raise OrchError(f"{folder.events} does not tell of the job's beginning: submit the spec again")
        spec = folder.read_spec()
        plan = Plan.of(PlannedStep(one.id, one.kind, one.needs) for one in progress.steps.values())
        kept, blobs, lost = {}, {}, {}
        for step in progress.steps.values():
            if step.status != "succeeded" or step.result is None:
                continue
            try:
                blobs.update(folder.contents(step.result))
                kept[step.id] = step.result
            except ContentChanged as error:
                lost[step.id] = str(error)
        records = {
            step.id: {
                "kind": step.kind,
                "status": "succeeded" if step.id in kept else "pending",
                "runs": step.runs,
                **dict.fromkeys(("ticket", "unmet", "losses", "tries"), 0),
            }
            for step in progress.steps.values()
        }
        fields = self._fields(spec, plan) | {
            "source": folder.spec.read_text(),
            "status": progress.status if progress.over else "cancelled",
            "attempt": progress.attempt,
            "created_ms": progress.created_ms,
            "cache": progress.about.get("cache", "use"),
            "spent_tokens": progress.usage().tokens_in + progress.usage().tokens_out,
            "spent_usd": progress.usage().cost_usd or 0,
            **({"allow_failing_qa": 1} if progress.about.get("allow_failing_qa") else {}),
            **budget_fields(spec.budget),
        }
        self.state.restore(folder.job_id, fields, plan.dependents, records, kept, folder.read_events(), blobs)
        return lost

    def progress(self, job_id: str) -> Progress:
        """The job as its events tell it until now."""
        return Progress.of(job_id, self.events(job_id))

    def events(self, job_id: str) -> Iterator[Event]:
        """Every event of the job until now."""
        return read_all(self.client, job_id)

    def follow(self, job_id: str, after: str = "0", wait_ms: int = 500) -> Iterator[list[Event]]:
        """Batches of the job's events as they come, without end; see `stream.follow`."""
        return follow(self.client, job_id, after, wait_ms)

    def _send(self, job_id: str, plan: Plan, sent: list[Dispatch], driver: Driver) -> None:
        if driver == "canvas" and sent:
            send_canvas(self.app, job_id, sent, part(plan, [one.step for one in sent]))
        else:
            send_each(self.app, job_id, sent)

    def _inside_a_worker(self, providers: tuple[str, ...]) -> bool:
        """Whether a step needs a worker that runs models itself: where there is none, its other providers will do."""
        return providers[0] == "mlx" and (
            len(providers) == 1 or any(MLX_QUEUE in one.queues for one in workers(self.client))
        )

    def _fields(self, spec: JobSpec, plan: Plan) -> dict[str, Any]:
        concurrency = _concurrency(spec)
        queues = {
            id_: [MLX_QUEUE]
            for id_ in plan.by_id
            if self._inside_a_worker(fallbacks(spec.step(id_).provider or spec.provider))
        }
        return {
            "spec": spec.model_dump_json(),
            "plan": json.dumps([[*_planned(plan.by_id[id_]), *queues.get(id_, ())] for id_ in plan.order]),
            "driver": choose_driver(plan, concurrency),
            "concurrency": concurrency,
            "timeout_ms": int(spec.timeout_s * 1000),
            "ttl_s": self.result_ttl_s,
        }


def _planned(step: PlannedStep) -> tuple[str, str, tuple[str, ...]]:
    return step.id, step.kind, step.needs


def budget_fields(budget: Budget | None) -> dict[str, Any]:
    """A budget as the job's hash has it."""
    return {
        f"budget_{name}": most
        for name, most in (budget.model_dump(exclude_none=True) if budget else {}).items()
    }


def about(loaded: LoadedSpec, spec: JobSpec) -> dict[str, Any]:
    """The data of job.submitted: everything that the job's progress starts from."""
    return {
        "project": spec.project,
        "provider": ",".join(fallbacks(spec.provider)),
        "model": spec.model,
        "concurrency": _concurrency(spec),
        "spec_sha256": hashlib.sha256(loaded.source.encode()).hexdigest(),
        "versions": {
            "orch": __version__,
            "python": platform.python_version(),
            "celery": celery.__version__,
        },
        "steps": [
            {
                "id": step.id,
                "kind": step.kind,
                "needs": list(step.needs),
                "provider": first(step.provider or spec.provider),
                "model": model_of(spec, step),
            }
            for step in spec.all_steps()
        ],
    }


def _concurrency(spec: JobSpec) -> int:
    if spec.concurrency is None:
        raise ValueError("the spec is not resolved")
    return spec.concurrency
