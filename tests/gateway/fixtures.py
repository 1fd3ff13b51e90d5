"""Fixtures for tests of the gateway: `pytest_plugins = ["tests.gateway.fixtures"]` brings them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.events import Event
from tasks.kinds import KINDS
from tasks.runner import Ended
from tasks.step import StepKind
from tests.gateway.elsewhere import Elsewhere
from tests.gateway.fleet import Fleet, Job, Make
from tests.gateway.providers import Backend


@pytest.fixture
def fleet(client: redis.Redis, tmp_path: Path) -> Fleet:
    """An empty fleet."""
    return Fleet(client, tmp_path)


@pytest.fixture
def backend() -> Iterator[Callable[..., Backend]]:
    """Starts servers that providers can ask, and closes them after the test."""
    started: list[Backend] = []

    def start(reply: Callable[[int], Any]) -> Backend:
        started.append(Backend(reply))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def elsewhere(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Elsewhere]]:
    """Starts processes that run steps, on this fleet; none of them outlives the test."""
    started: list[Elsewhere] = []

    def start(address: str, job: Job, *names: str, **more: Any) -> Elsewhere:
        steps = [(job.id, job.sent[name]) for name in names or job.sent]
        started.append(Elsewhere(redis_url, tmp_path, address, steps, **more))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def submit_step(fleet: Fleet) -> Callable[..., Job]:
    """Submits a job with one step; workers die with it so many times before it is returned."""

    def submit(deaths: int = 0, cache: Any = "use", **step: Any) -> Job:
        job = fleet.submit(of_steps=step, cache=cache, model="model-of-the-job")
        for _ in range(deaths):
            job.claim(worker="gone:1", lease_s=-1)
            job.again()
        return job

    return submit


@pytest.fixture
def run_step(fleet: Fleet, submit_step: Callable[..., Job]) -> Callable[..., tuple[Ended, list[Event]]]:
    """Runs the one step of a job on real Redis; returns how it ended and the job's events."""

    def run(make: Make, kind: StepKind = KINDS["prompt"], **step: Any) -> tuple[Ended, list[Event]]:
        job = submit_step(**step)
        one = job.sent["only"]
        ended = fleet.runner(make).run(kind, job.id, one.step, one.ticket)
        return ended, job.events()

    return run
