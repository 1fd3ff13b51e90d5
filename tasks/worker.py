"""The worker's wiring: settings → Redis → runner → one Celery task per step kind. `celery -A tasks.worker worker`."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from celery import Celery, signals
from celery.exceptions import Ignore

from orchestrator.canvas import send_each
from orchestrator.celery_app import make_app
from orchestrator.connection import HOW_TO_POINT, connect
from orchestrator.errors import EnvironmentNotReady
from orchestrator.fleet import describe
from orchestrator.names import task_name
from orchestrator.recovery import WORKER_TTL_S, Recovery
from orchestrator.settings import Settings, load_settings
from orchestrator.state import State
from orchestrator.workers import Serves
from providers import ProviderError
from tasks.kinds import KINDS
from tasks.runner import WORKER, Runner, make_runner
from tasks.step import StepKind

log = logging.getLogger(__name__)

STUBBORN_S = 3.0
"""How long steps have to give themselves back at shutdown; those that do not are given back for them."""


class StepFailed(Exception):
    """What Celery records of a failed step; the job's state has the rest."""


def make_worker(settings: Settings) -> Celery:
    """Return the Celery application of a worker with these settings."""
    if settings.redis_url is None:
        raise EnvironmentNotReady(f"a worker needs a Redis: {HOW_TO_POINT}")
    app = make_app(settings.redis_url)
    runner = make_runner(settings, settings.redis_url)
    for kind in KINDS.values():
        _register(app, runner, kind)
    _look_after_the_fleet(app, runner, settings.redis_url)
    return app


def _register(app: Celery, runner: Runner, kind: StepKind) -> None:
    @app.task(name=task_name(kind.name), bind=True, throws=(StepFailed,))  # type: ignore[untyped-decorator]
    def run_step(self: Any, job_id: str, step_id: str, ticket: int) -> None:
        """Run one step. Returning lets a canvas go on, Ignore leaves it as it is, StepFailed ends it.

        Celery reports nothing about an ignored task, so its true state is reported here.
        """
        ended = runner.run(kind, job_id, step_id, ticket)
        send_each(app, job_id, ended.ready)
        match ended.outcome:
            case "failed":
                raise StepFailed(ended.message)
            case "back":
                self.send_event("task-retried", exception=ended.message, traceback="")
                raise Ignore(ended.message)
            case "void":
                self.send_event("task-revoked", terminated=False, signum=None, expired=False)
                raise Ignore(ended.message)


def _look_after_the_fleet(app: Celery, runner: Runner, redis_url: str) -> None:
    """Take part in recovery while the worker runs, and give back its steps when it has to go."""
    taking_part: list[Recovery] = []

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def start(sender: Any, **_: object) -> None:
        recovery = Recovery(
            State(connect(redis_url, timeout_s=WORKER_TTL_S)),
            lambda job_id, sent: send_each(app, job_id, sent),
            worker=WORKER,
            slots=sender.controller.concurrency,
            lease_s=runner.settings.orch_lease_s,
            serves=describe(runner.serves, runner.settings),
        )
        taking_part.append(recovery)
        recovery.start()
        if runner.serves.provider:
            threading.Thread(target=_warm, args=(runner, runner.serves), daemon=True).start()

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def stop(**_: object) -> None:
        for recovery in taking_part:
            threading.Thread(target=recovery.leave, daemon=True).start()
        grace_s = runner.settings.orch_worker_grace_s
        threading.Thread(target=_hand_back, args=(app, runner, grace_s), daemon=True).start()


def _warm(runner: Runner, serves: Serves) -> None:
    """Load the one model that this worker serves, before the first step asks for it."""
    try:
        runner.create_provider(serves.provider or "", serves.model).warm()
    except ProviderError as error:
        log.warning("%s", error)


def _hand_back(app: Celery, runner: Runner, grace_s: float) -> None:
    """Let steps finish for a grace; then ask those that still run to end; then leave without them.

    What keeps them may be a Redis that does not answer, so it is not waited for either: their leases will run out.
    """
    pause = threading.Event()
    pause.wait(grace_s)
    for hold in runner.heartbeat.held():
        hold.stop("shutdown")
    pause.wait(STUBBORN_S)
    stubborn = runner.heartbeat.held()
    if not stubborn:
        return

    def give_back() -> None:
        for hold in stubborn:
            sent = runner.state.release(hold.job_id, hold.step, hold.token, "its worker was shut down")
            if isinstance(sent, list):
                send_each(app, hold.job_id, sent)

    giving = threading.Thread(target=give_back, daemon=True)
    giving.start()
    giving.join(STUBBORN_S)
    log.warning("left with %d steps that did not end", len(stubborn))
    os._exit(0)


app = make_worker(load_settings())
