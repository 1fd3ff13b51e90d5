"""The worker's wiring: settings → Redis → runner → one Celery task per step kind. `celery -A tasks.worker worker`."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.exceptions import Ignore

from orchestrator.cache import Cache
from orchestrator.canvas import send_each
from orchestrator.celery_app import make_app
from orchestrator.connection import HOW_TO_POINT, connect
from orchestrator.errors import EnvironmentNotReady
from orchestrator.lease import Heartbeat
from orchestrator.names import task_name
from orchestrator.settings import Settings, load_settings
from orchestrator.state import State
from providers.registry import shared
from tasks.kinds import KINDS
from tasks.runner import Runner
from tasks.step import StepKind


class StepFailed(Exception):
    """What Celery records of a failed step; the job's state has the rest."""


def make_worker(settings: Settings) -> Celery:
    """Return the Celery application of a worker with these settings."""
    if settings.redis_url is None:
        raise EnvironmentNotReady(f"a worker needs a Redis: {HOW_TO_POINT}")
    client = connect(settings.redis_url, patient=True)
    state = State(client)
    runner = Runner(
        state=state,
        cache=Cache(client, settings.orch_runs_dir, settings.orch_cache_ttl_s),
        heartbeat=Heartbeat(state, settings.orch_lease_s),
        create_provider=shared,
        lease_s=settings.orch_lease_s,
    )
    app = make_app(settings.redis_url)
    for kind in KINDS.values():
        _register(app, runner, kind)
    return app


def _register(app: Celery, runner: Runner, kind: StepKind) -> None:
    @app.task(name=task_name(kind.name), bind=True, throws=(StepFailed,))  # type: ignore[untyped-decorator]
    def run_step(self: Any, job_id: str, step_id: str, ticket: int) -> None:
        """Run one step. Returning lets a canvas go on, Ignore leaves it as it is, StepFailed ends it."""
        ended = runner.run(kind, job_id, step_id, ticket)
        if ended.outcome == "void":
            raise Ignore(ended.message)
        if ended.outcome == "failed":
            raise StepFailed(ended.message)
        send_each(app, job_id, ended.ready)


app = make_worker(load_settings())
