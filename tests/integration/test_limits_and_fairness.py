"""Cancel, timeouts, concurrency and fairness, on a fleet of real workers."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from orchestrator.celery_app import make_app
from orchestrator.events import Event
from orchestrator.jobs import Jobs
from orchestrator.lease import Heartbeat
from orchestrator.progress import Progress
from orchestrator.spec import parse_spec

pytestmark = pytest.mark.integration

CANCEL_S = 1.0
CLOCK_MS = 5  # a script looks at the clock once, and events are dated when they are written
PATIENCE_S = 60.0
SEEDS = count(1)


@pytest.fixture
def jobs(client, redis_url):
    jobs = Jobs(client, make_app(redis_url), 1000)
    yield jobs
    jobs.app.close()


@pytest.fixture
def submit(jobs):
    """Submits a job of prompt steps, given as step → fields, or of the default pipeline; returns its id."""

    def submit(steps: dict[str, dict] | None = None, latency_s: float = 0.0, **fields) -> str:
        spec = {"project": "p", "task_description": "try", "provider": "simulated", "concurrency": 4}
        spec["options"] = {"latency_s": latency_s, "seed": next(SEEDS)}
        if steps:
            spec["steps"] = [{"id": step, "prompt": f"write {step}", **more} for step, more in steps.items()]
        loaded = parse_spec(json.dumps(spec | fields), "spec.yaml")
        return jobs.submit(loaded, loaded.spec)

    return submit


@pytest.fixture
def until(jobs):
    """Waits until the events of a job fulfil something; returns them."""

    def until(job_id: str, true: Callable[[list[Event]], bool]) -> list[Event]:
        deadline, seen = time.monotonic() + PATIENCE_S, []
        while time.monotonic() < deadline:
            seen = list(jobs.events(job_id))
            if true(seen):
                return seen
            time.sleep(0.05)
        raise AssertionError("\n".join(f"{one.ts} {one.type} {one.step or ''} {one.data}" for one in seen))

    return until


@pytest.fixture
def ended(until):
    """Waits for the end of a job."""

    def ended(job_id: str) -> Progress:
        return Progress.of(job_id, until(job_id, lambda events: Progress.of(job_id, events).over))

    return ended


def has(kind: str, step: str | None = None) -> Callable[[list[Event]], bool]:
    return lambda events: bool(of(events, kind, step))


def of(events: list[Event], kind: str, step: str | None = None) -> list[Event]:
    return [event for event in events if event.type == kind and step in (None, event.step)]


# --- cancel ----------------------------------------------------------------------------------------------------------


def test_cancel_ends_running_calls_within_a_second_and_queued_steps_never_start(
    jobs, submit, until, start_worker, client
):
    start_worker(concurrency=2)
    job = submit({"a": {}, "b": {}, "c": {}}, latency_s=30)
    until(job, lambda events: len(of(events, "llm.request")) == 2)

    assert jobs.state.cancel(job, "no longer wanted")

    events = until(job, lambda events: len(of(events, "llm.response")) == 2)
    [cancelled] = of(events, "job.cancelled")
    latest = max(event.at_ms for event in of(events, "llm.response"))
    assert latest - cancelled.at_ms <= CANCEL_S * 1000
    assert len(of(events, "step.started")) == 2
    assert of(events, "step.succeeded") == []
    # and the worker is free for others at once
    other = submit({"x": {}})
    until(other, has("job.succeeded"))
    assert len(of(list(jobs.events(job)), "step.started")) == 2, "a step of a cancelled job was started"
    assert client.hgetall("orch:held") == {}


def test_cancel_reaches_a_step_that_had_just_been_claimed(submit, state, jobs, redis_url):
    # given a process that runs a step, and another step's claim whose answer is still on its way
    running, claimed = submit({"a": {}}), submit({"a": {}})
    state.claim(running, "a", 1, "running", 60, "here")
    state.claim(claimed, "a", 1, "claimed", 60, "here")
    heartbeat = Heartbeat(state, lease_s=60)
    with heartbeat.holding(running, "a", "running"):
        stops_seen(jobs.client, heartbeat)

        # when the job is cancelled before the process knows that the step is its own
        state.cancel(claimed, "at once")
        stops_seen(jobs.client, heartbeat)

        # then it learns of it all the same
        with heartbeat.holding(claimed, "a", "claimed") as hold:
            assert hold.stopped.wait(CANCEL_S)


def stops_seen(client, heartbeat: Heartbeat) -> None:
    """Wait until the heartbeat has looked twice whether a job ended."""

    def reads() -> int:
        return client.info("commandstats").get("cmdstat_get", {}).get("calls", 0)

    before, deadline = reads(), time.monotonic() + PATIENCE_S
    while reads() < before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- timeouts --------------------------------------------------------------------------------------------------------


def test_a_step_ends_at_its_timeout_and_says_so(submit, ended, start_worker):
    start_worker()
    job = submit({"a": {"timeout_s": 1}, "b": {"needs": ["a"]}}, latency_s=30)

    progress = ended(job)

    assert progress.status == "failed"
    assert [(failure.step, failure.kind) for failure in progress.failures] == [("a", "timeout")]
    assert "1 s" in progress.failures[0].message
    took_ms = progress.steps["a"].finished_ms - progress.steps["a"].started_ms
    assert 1000 <= took_ms < 10_000, "its call takes 30 s"


def test_a_job_ends_at_its_timeout_and_its_running_call_with_it(submit, ended, until, start_worker):
    start_worker()
    until(
        submit({"x": {}}), has("job.succeeded")
    )  # a job's time runs from its start, also while no worker is there
    job = submit({"a": {}, "b": {"needs": ["a"]}}, latency_s=30, timeout_s=2)

    progress = ended(job)

    assert progress.status == "failed"
    assert [failure.kind for failure in progress.failures] == ["timeout"]
    assert progress.failures[0].step is None
    events = until(job, has("llm.response"))
    [failed], [stopped] = of(events, "job.failed"), of(events, "llm.response")
    assert stopped.at_ms - failed.at_ms <= CANCEL_S * 1000
    assert 2000 <= failed.at_ms - events[0].at_ms < 10_000, "its calls take 60 s"


def test_a_step_is_not_charged_for_the_time_it_waited_in_the_queue(submit, ended, start_worker):
    # given steps of which each takes most of its time, and one worker that runs one at a time
    job = submit({step: {"timeout_s": 3} for step in ("a", "b", "c", "d")}, latency_s=1)

    start_worker(concurrency=1)

    assert ended(job).status == "succeeded"


# --- concurrency and fairness ----------------------------------------------------------------------------------------


def at_once(events: list[Event]) -> int:
    """The most steps that ran at the same time."""
    running, most = 0, 0
    for event in events:
        running += (event.type == "step.started") - (event.type in ("step.succeeded", "step.failed"))
        most = max(most, running)
    return most


def test_the_concurrency_of_a_job_holds_over_all_workers(submit, ended, jobs, start_worker, until):
    for _ in range(2):
        start_worker(concurrency=4)
    first = submit({"x": {}})
    until(first, has("job.succeeded"))
    job = submit({f"s{n}": {} for n in range(24)}, latency_s=0.15, concurrency=3)

    assert ended(job).status == "succeeded"

    events = list(jobs.events(job))
    assert at_once(events) == 3
    workers = Counter(event.get("worker") for event in of(events, "step.started"))
    assert len(workers) == 2, "both workers took part"


@pytest.mark.parametrize("first", ["the worker", "the wide job"])
def test_a_job_of_200_steps_does_not_starve_one_of_4(submit, ended, until, jobs, start_worker, first):
    # given a wide job that may use everything
    if first == "the worker":
        start_worker(concurrency=2)
        until(submit({"x": {}}), has("job.succeeded"))
    wide = submit({f"s{n}": {} for n in range(200)}, latency_s=0.1, concurrency=200)
    if first == "the wide job":
        start_worker(concurrency=2)
    until(wide, lambda events: len(of(events, "step.succeeded")) >= 3)

    # when a narrow one comes
    narrow = submit(
        {"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}, "d": {"needs": ["c"]}}, latency_s=0.1
    )

    # then it does not stand behind all of the wide one
    end = ended(narrow)
    assert end.status == "succeeded"
    during = [event for event in jobs.events(wide) if end.created_ms <= event.at_ms <= end.finished_ms]
    waited_for = len(of(during, "step.succeeded"))
    print(f"{waited_for} of 200 steps ended while the narrow job was under way")
    assert waited_for < 100
    jobs.state.cancel(wide, "shown")


def test_no_step_waits_for_one_that_it_does_not_need(submit, until, start_worker):
    start_worker(concurrency=8)
    # given A→C, A→D, B→D, which no canvas can express, and an A that takes long
    job = submit(
        {
            "a": {"options": {"latency_s": 20}},
            "b": {},
            "c": {"needs": ["a"]},
            "d": {"needs": ["a", "b"]},
            "e": {"needs": ["b"]},
            "f": {"needs": ["e"]},
        },
        latency_s=0.1,
        concurrency=8,
    )

    events = until(job, has("step.succeeded", "f"))

    assert of(events, "step.succeeded", "a") == []
    assert {event.step for event in of(events, "step.succeeded")} == {"b", "e", "f"}


# --- a step that must wait -------------------------------------------------------------------------------------------


def test_a_step_that_must_wait_gives_its_slot_back_and_show_says_why(
    submit, until, ended, jobs, start_worker, orch, redis_url
):
    # given a fleet of one slot, and a step whose provider is left alone for 3 s after each failure
    start_worker(concurrency=1, PROVIDER_CB_THRESHOLD="1", PROVIDER_CB_COOLDOWN_S="3")
    limited = submit({"a": {"options": {"error": "server"}, "retries": 8}})
    until(limited, parked)

    # then others run meanwhile
    other = submit(provider="scaffold", options={})
    assert ended(other).status == "succeeded"
    assert not jobs.progress(limited).over

    # and it says what it waits for
    def waiting() -> dict | None:
        return jobs.progress(limited).to_json()["steps"]["a"]["waiting"]

    until(limited, lambda _: bool(waiting()) and waiting()["until"] is not None)
    orch.env["ORCH_REDIS_URL"] = redis_url
    shown = orch("show", limited, "--json").json()["steps"]["a"]
    if shown["waiting"] and shown["waiting"]["until"]:
        assert "the circuit of simulated" in shown["waiting"]["reason"]
    events = until(limited, lambda events: len(of(events, "step.started")) >= 3)
    for back, again in zip(parked(events), of(events, "step.started")[1:], strict=False):
        assert again.at_ms - back.at_ms >= back.get("wait_ms") - CLOCK_MS, "it came back before it was due"
    jobs.state.cancel(limited, "shown")


def parked(events: list[Event]) -> list[Event]:
    return [event for event in of(events, "step.retrying") if not event.get("inline")]


def test_a_step_that_waited_too_often_fails_with_what_the_provider_said(submit, ended, start_worker):
    start_worker()
    job = submit({"a": {"options": {"error": "rate_limit"}, "retries": 1}})

    progress = ended(job)

    assert [(failure.step, failure.kind) for failure in progress.failures] == [("a", "rate_limit")]
    assert progress.steps["a"].figures.provider_calls == 2


# --- failure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_failed_step_lets_running_neighbours_be_committed_and_starts_no_more(
    submit, ended, jobs, start_worker, concurrency
):
    start_worker(concurrency=4)
    steps = {
        "slow": {"options": {"latency_s": 1.5}},
        "bad": {"options": {"error": "auth", "latency_s": 0.5}},
        "after": {"needs": ["slow"]},
    }
    job = submit(steps, concurrency=concurrency)

    progress = ended(job)

    assert progress.status == "failed"
    assert [failure.step for failure in progress.failures] == ["bad"]
    assert progress.completed() == ["slow"]
    started = [event.step for event in of(list(jobs.events(job)), "step.started")]
    assert sorted(started) == ["bad", "slow"]
