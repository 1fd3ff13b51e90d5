"""A step that workers died with: it runs in a process of its own, whose end says what becomes of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.events import Event
from providers import Provider
from tasks.kinds import KINDS
from tasks.runner import Ended
from tests.gateway.fleet import Fleet, Job, eventually
from tests.gateway.providers import Scripted

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

RunStep = Callable[..., tuple[Ended, list[Event]]]


def nobody(name: str, model: str | None) -> Provider:
    return Scripted(model=model or "m")


def lone_processes() -> list[psutil.Process]:
    """Our processes that run one step each."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if one.cmdline()[1:3] == ["-m", "tasks.alone"]:
                found.append(one)
    return found


@pytest.fixture
def here(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment that a worker's own processes get; none of them outlives the test."""
    monkeypatch.setenv("ORCH_REDIS_URL", redis_url)
    monkeypatch.setenv("ORCH_RUNS_DIR", str(tmp_path))
    yield
    assert lone_processes() == []


SIMULATED = {"provider": "simulated", "deaths": 2}


@pytest.mark.usefixtures("here")
def test_a_suspect_step_runs_in_a_process_of_its_own_and_its_result_counts(
    fleet: Fleet, run_step: RunStep
) -> None:
    def not_here(*_: Any) -> Provider:
        raise AssertionError("it ran in this process")

    ended, events = run_step(not_here, **SIMULATED)

    assert ended.outcome == "done", (ended, events)
    assert events[-1].type == "job.succeeded"
    assert fleet.state.result(events[0].job_id, "only") is not None


@pytest.mark.usefixtures("here")
def test_a_suspect_step_is_stopped_by_its_time_limit(
    run_step: RunStep,
) -> None:
    ended, events = run_step(nobody, timeout_s=2, options={"latency_s": 60}, **SIMULATED)

    assert ended.outcome == "failed"
    assert events[-1].get("failures")[0]["kind"] == "timeout"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("number", "outcome", "status"),
    [(signal.SIGKILL, "failed", "failed"), (signal.SIGTERM, "back", "running")],
    ids=["killed", "asked to end"],
)
def test_a_suspect_step_whose_own_process_dies_fails_unless_the_process_was_asked_to_end(
    fleet: Fleet,
    submit_step: Callable[..., Job],
    number: signal.Signals,
    outcome: str,
    status: str,
) -> None:
    job = submit_step(options={"latency_s": 60}, **SIMULATED)
    sent = job.sent["only"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fleet.runner(nobody).run, KINDS["prompt"], job.id, sent.step, sent.ticket)
        eventually(lambda: job.events("llm.request"))
        [process] = lone_processes()

        process.send_signal(number)
        ended = running.result(10)

    assert ended.outcome == outcome
    assert fleet.state.job(job.id)["status"] == status
    if outcome == "failed":
        [failure] = job.events()[-1].get("failures")
        assert (failure["kind"], "137" in failure["message"]) == ("poison", True)


@pytest.mark.usefixtures("here")
def test_the_process_of_a_suspect_step_ends_when_its_job_is_cancelled(
    fleet: Fleet, submit_step: Callable[..., Job]
) -> None:
    job = submit_step(options={"latency_s": 60}, **SIMULATED)
    sent = job.sent["only"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fleet.runner(nobody).run, KINDS["prompt"], job.id, sent.step, sent.ticket)
        eventually(lambda: job.events("llm.request"))

        fleet.state.cancel(job.id, "enough")

        assert running.result(5).outcome == "void"
