"""What each Lua script guarantees, tried on a real Redis: late, doubled, lost and stale messages included."""

from __future__ import annotations

import hashlib
import json
import select
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.connection import connect
from orchestrator.events import Act, Event
from orchestrator.lease import Heartbeat
from orchestrator.names import FLEET, QUEUE, JobKeys
from orchestrator.plan import Plan, PlannedStep
from orchestrator.progress import Progress
from orchestrator.records import Artifact, Failure, OutputFile, StepResult
from orchestrator.state import LOSSES_UNTIL_ALONE, Claim, Dispatch, Lead, Stale, State
from orchestrator.stream import read_all
from tests.contents import everything

JOB = "job_0123456789ab"
OTHER = "job_ba9876543210"
QUEUE_LIST = f"{FLEET['QUEUES']}{QUEUE}"
NOTHING = StepResult()
DIAMOND: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
PAIR: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",)}
SIDE_BY_SIDE: dict[str, tuple[str, ...]] = {"a": (), "b": (), "c": ("a", "b")}


def plan_of(needs: Mapping[str, tuple[str, ...]]) -> Plan:
    return Plan.of(PlannedStep(step, "prompt", those) for step, those in needs.items())


def job_fields(
    needs: Mapping[str, tuple[str, ...]],
    driver: str = "ready",
    concurrency: int = 4,
    timeout_ms: int = 900_000,
) -> dict[str, Any]:
    steps = json.dumps([[step, "prompt", list(those)] for step, those in needs.items()])
    return {
        "spec": "{}",
        "source": "project: p",
        "plan": steps,
        "driver": driver,
        "concurrency": concurrency,
        "timeout_ms": timeout_ms,
        "ttl_s": 100,
    }


def told(needs: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {"steps": [{"id": step, "kind": "prompt", "needs": those} for step, those in needs.items()]}


def submit(
    state: State,
    needs: Mapping[str, tuple[str, ...]] = DIAMOND,
    driver: str = "ready",
    concurrency: int = 4,
    job: str = JOB,
    timeout_ms: int = 900_000,
) -> dict[str, Dispatch]:
    """Submit a job; returns what was sent, by step."""
    fields = job_fields(needs, driver, concurrency, timeout_ms)
    return by_step(state.submit(job, fields, plan_of(needs).dependents, told(needs)))


def by_step(sent: list[Dispatch] | Stale) -> dict[str, Dispatch]:
    assert not isinstance(sent, Stale), sent
    return {one.step: one for one in sent}


def claim(
    state: State,
    one: Dispatch,
    token: str | None = None,
    *,
    job: str = JOB,
    lease_s: float = 30,
    worker: str = "worker:1",
) -> Claim:
    return state.claim(job, one.step, one.ticket, token or f"token-{one.step}", lease_s, worker)


def renew(state: State, step: str, token: str, lease_s: float = 30) -> bool:
    [ours] = state.renew([(JOB, step, token)], lease_s)
    return ours


def succeed(
    state: State,
    step: str,
    token: str | None = None,
    result: StepResult = NOTHING,
    blobs: Mapping[str, bytes] | None = None,
    *,
    job: str = JOB,
) -> list[Dispatch] | Stale:
    return state.succeed(job, step, token or f"token-{step}", result, blobs or {}, {"duration_s": 0.5})


def fail(state: State, step: str, token: str | None = None) -> list[Dispatch] | Stale:
    failure = Failure(step=step, kind="qa", message=f"{step} did not work")
    return state.fail(JOB, step, token or f"token-{step}", failure, {"duration_s": 0.5})


def run(state: State, one: Dispatch) -> dict[str, Dispatch]:
    """Claim a step and commit its success."""
    assert claim(state, one).verdict == "run"
    return by_step(succeed(state, one.step))


def recover(state: State, *, calm: bool = True, grace_s: float = 1000, job: str = JOB) -> dict[str, Dispatch]:
    return by_step(state.recover(job, calm=calm, grace_s=grace_s))


def pause(seconds: float) -> None:
    """Let time go by on the clock of Redis, which no test can set."""
    time.sleep(seconds)


def with_file(content: bytes, path: str = "p/main.py") -> tuple[StepResult, dict[str, bytes]]:
    sha256 = hashlib.sha256(content).hexdigest()
    file = OutputFile(path=path, sha256=sha256, size_bytes=len(content))
    return StepResult(files=(file,)), {sha256: content}


def events(client: redis.Redis, kind: str | None = None) -> list[Event]:
    every = read_all(client, JOB)
    return [event for event in every if kind in (None, event.type)]


def steps_with(client: redis.Redis, kind: str) -> list[str | None]:
    return [event.step for event in events(client, kind)]


def records(client: redis.Redis, job: str = JOB) -> dict[str, dict[str, Any]]:
    raw: Any = client.hgetall(JobKeys(job).steps)
    return {step.decode(): json.loads(record) for step, record in raw.items()}


def statuses(client: redis.Redis, job: str = JOB) -> dict[str, str]:
    return {step: record["status"] for step, record in records(client, job).items()}


def of_the_job(client: redis.Redis, job: str = JOB) -> set[str]:
    """The keys of one job."""
    return {key.decode() for key in client.scan_iter() if f"{{{job}}}".encode() in key}


# --- submit -----------------------------------------------------------------------------------------------------------


def test_submitting_a_job_id_twice_changes_nothing(client: redis.Redis, state: State) -> None:
    submit(state)
    before = everything(client)

    with pytest.raises(ValueError, match="exists already"):
        submit(state, PAIR)

    assert everything(client) == before


def test_all_keys_of_a_job_share_its_hash_tag(client: redis.Redis, state: State) -> None:
    # given a job that has used every key there is
    result, blobs = with_file(b"x")
    needs: dict[str, tuple[str, ...]] = {"a": (), "b": (), "d": (), "e": (), "f": (), "c": ("a",)}
    sent = submit(state, needs, concurrency=3)
    for step in ("a", "b", "d"):
        claim(state, sent[step])
    succeed(state, "a", None, result, blobs)
    state.release(JOB, "b", "token-b", "rate limited", 60)

    # then all are its own but those that the whole fleet has
    keys = {key.decode() for key in client.scan_iter()}
    assert keys - of_the_job(client) <= set(FLEET.values())
    assert of_the_job(client) == {
        f"orch:{{{JOB}}}{suffix}"
        for suffix in (
            "",
            ":steps",
            ":next",
            ":results",
            ":files",
            ":blobs",
            ":leases",
            ":queued",
            ":parked",
            ":ready",
            ":active",
            ":open",
            ":events",
        )
    }


def test_a_job_is_submitted_started_and_ended_by_its_events(client: redis.Redis, state: State) -> None:
    sent = submit(state, PAIR)
    run(state, run(state, sent["a"])["b"])

    assert [(event.type, event.step) for event in events(client)] == [
        ("job.submitted", None),
        ("step.queued", "a"),
        ("job.started", None),
        ("step.started", "a"),
        ("step.succeeded", "a"),
        ("step.queued", "b"),
        ("step.started", "b"),
        ("step.succeeded", "b"),
        ("job.succeeded", None),
    ]
    assert state.job(JOB)["status"] == "succeeded"


# --- claim ------------------------------------------------------------------------------------------------------------


def test_a_claim_for_a_job_that_redis_does_not_know_is_void(client: redis.Redis, state: State) -> None:
    verdict = claim(state, Dispatch("a", "prompt", 1))

    assert verdict == Claim("void", "unknown job")
    assert client.dbsize() == 0


def test_a_claim_for_a_step_that_the_job_does_not_have_is_void(client: redis.Redis, state: State) -> None:
    submit(state)
    before = everything(client)

    assert claim(state, Dispatch("z", "prompt", 1)) == Claim("void", "unknown step")
    assert everything(client) == before


@pytest.mark.parametrize("off", [-2, -1, 1, 99])
def test_a_claim_with_another_ticket_than_the_current_is_void(
    client: redis.Redis, state: State, off: int
) -> None:
    sent = submit(state)
    before = everything(client)

    assert claim(state, Dispatch("a", "prompt", sent["a"].ticket + off)) == Claim("void", "old ticket")
    assert everything(client) == before


def test_a_message_of_an_earlier_attempt_is_void(client: redis.Redis, state: State) -> None:
    old = submit(state)["a"]
    state.cancel(JOB, "enough")
    new = by_step(state.resume(JOB, "ready", {}))["a"]

    assert claim(state, old, "zombie").verdict == "void"
    assert claim(state, new, "fresh").verdict == "run"


def test_a_claim_before_its_needs_are_done_is_void_and_later_is_not(
    client: redis.Redis, state: State
) -> None:
    # given a canvas, which sends every message at the start
    sent = submit(state, PAIR, driver="canvas")
    assert set(sent) == {"a", "b"}

    # when a message comes early
    assert claim(state, sent["b"]) == Claim("void", "needs not met")

    # then it is as if it had not come
    run(state, sent["a"])
    assert claim(state, sent["b"]).verdict == "run"


def test_a_repeated_claim_with_the_same_token_gets_the_same_answer_and_no_second_event(
    client: redis.Redis, state: State
) -> None:
    sent = submit(state)
    first = claim(state, sent["a"], "mine")
    before = everything(client)

    assert claim(state, sent["a"], "mine") == first == Claim("run")
    assert everything(client) == before


def test_of_two_workers_only_one_gets_the_step(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    claim(state, sent["a"], "mine")
    before = everything(client)

    assert claim(state, sent["a"], "yours") == Claim("void", "taken by another worker")
    assert everything(client) == before


def test_of_many_workers_at_once_exactly_one_gets_the_step(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    start = threading.Barrier(16)

    def worker(number: int) -> str:
        start.wait()
        return claim(state, sent["a"], f"token-{number}").verdict

    with ThreadPoolExecutor(16) as pool:
        verdicts = list(pool.map(worker, range(16)))

    assert sorted(verdicts) == ["run"] + ["void"] * 15
    assert steps_with(client, "step.started") == ["a"]


def test_a_claim_for_a_step_that_is_done_lets_the_canvas_go_on_whatever_its_ticket(
    client: redis.Redis, state: State
) -> None:
    sent = submit(state)
    run(state, sent["a"])

    assert claim(state, sent["a"], "late").verdict == "done"
    assert claim(state, Dispatch("a", "prompt", 77), "odd").verdict == "done"


def test_nothing_of_a_cancelled_job_can_be_claimed(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    state.cancel(JOB, "enough")

    assert claim(state, sent["a"]) == Claim("void", "the job is over")


# --- commit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [succeed, fail])
@pytest.mark.parametrize("token", ["", "stale", "token-b"])
def test_a_commit_by_any_token_but_the_current_changes_nothing(
    client: redis.Redis, state: State, commit: Callable[..., Any], token: str
) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    claim(state, sent["a"], "mine")
    claim(state, sent["b"])
    before = everything(client)

    assert isinstance(commit(state, "a", token or "\0"), Stale)
    assert everything(client) == before


@pytest.mark.parametrize("commit", [succeed, fail])
def test_a_step_that_nobody_has_claimed_cannot_be_committed(
    client: redis.Redis, state: State, commit: Callable[..., Any]
) -> None:
    submit(state)
    before = everything(client)

    assert isinstance(commit(state, "a", "mine"), Stale)
    assert isinstance(commit(state, "unknown", "mine"), Stale)
    assert everything(client) == before


def test_a_repeated_commit_of_the_same_token_gets_the_same_answer_and_changes_nothing(
    client: redis.Redis, state: State
) -> None:
    sent = submit(state)
    claim(state, sent["a"], "mine")
    result, blobs = with_file(b"x")
    first = succeed(state, "a", "mine", result, blobs)
    before = everything(client)

    assert succeed(state, "a", "mine", result, blobs) == first
    assert [one.step for one in first if not isinstance(first, Stale)] == ["b", "c"]
    assert everything(client) == before


def test_a_repeated_failure_of_the_same_token_changes_nothing(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    assert fail(state, "a") == []
    before = everything(client)

    assert fail(state, "a") == []
    assert succeed(state, "a") == []
    assert everything(client) == before


@pytest.mark.parametrize("commit", [succeed, fail])
def test_a_commit_after_cancel_changes_nothing(
    client: redis.Redis, state: State, commit: Callable[..., Any]
) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    state.cancel(JOB, "enough")
    before = everything(client)

    assert isinstance(commit(state, "a"), Stale)
    assert everything(client) == before


@pytest.mark.parametrize("commit", [succeed, fail])
def test_a_zombie_of_an_earlier_attempt_cannot_commit_into_the_next(
    client: redis.Redis, state: State, commit: Callable[..., Any]
) -> None:
    # given a worker that still runs a step of an attempt that was cancelled and resumed
    old = submit(state)["a"]
    claim(state, old, "zombie")
    state.cancel(JOB, "enough")
    new = by_step(state.resume(JOB, "ready", {}))["a"]

    # when it commits before and after somebody else has claimed the step
    assert isinstance(commit(state, "a", "zombie"), Stale)
    claim(state, new, "fresh")
    assert isinstance(commit(state, "a", "zombie"), Stale)
    assert renew(state, "a", "zombie") is False

    # then the step is the other's
    assert set(by_step(succeed(state, "a", "fresh"))) == {"b", "c"}
    assert steps_with(client, "step.succeeded") == ["a"]


def test_files_of_a_commit_are_told_as_created_updated_or_unchanged(
    client: redis.Redis, state: State
) -> None:
    chain = {"a": (), "b": ("a",), "c": ("b",), "d": ("c",)}
    sent = submit(state, chain)
    for step, content in (("a", b"one"), ("b", b"one"), ("c", b"two"), ("d", b"one")):
        claim(state, sent[step])
        sent |= by_step(succeed(state, step, None, *with_file(content)))

    told = [(event.step, event.get("wrote"), event.get("reason")) for event in events(client, "file.written")]
    assert told == [
        ("a", True, "created"),
        ("b", False, "nochange"),
        ("c", True, "updated"),
        ("d", True, "updated"),
    ]
    assert {event.get("sha256") for event in events(client, "file.written")} == {
        hashlib.sha256(content).hexdigest() for content in (b"one", b"two")
    }


def test_contents_and_results_are_there_when_the_step_is_done(client: redis.Redis, state: State) -> None:
    content = bytes(range(256)) * 4
    sha256 = hashlib.sha256(content).hexdigest()
    artifact = Artifact(name="a.bin", sha256=sha256, size_bytes=len(content))
    result = StepResult(text="a.bin", artifacts=(artifact,), data={"deep": [{"x": None, "y": [], "z": {}}]})
    claim(state, submit(state)["a"])

    succeed(state, "a", None, result, {sha256: content})

    assert state.result(JOB, "a") == result
    assert state.blob(JOB, sha256) == content
    assert events(client, "step.succeeded")[0].get("data") == {"deep": [{"x": None, "y": [], "z": {}}]}


# --- failure ----------------------------------------------------------------------------------------------------------


def test_a_running_neighbour_of_a_failed_step_still_commits_and_then_the_job_fails(
    client: redis.Redis, state: State
) -> None:
    # given two steps that run, and one that waits for both
    sent = submit(state, SIDE_BY_SIDE)
    claim(state, sent["a"])
    claim(state, sent["b"])

    # when one fails, the job goes on as long as the other runs
    assert fail(state, "a") == []
    assert state.job(JOB)["status"] == "running"
    assert renew(state, "b", "token-b")

    # then the other's result is kept, what follows is not started, and the job has failed
    assert succeed(state, "b", None, *with_file(b"kept")) == []
    assert state.job(JOB)["status"] == "failed"
    assert state.succeeded(JOB) == {"b"}
    assert statuses(client)["c"] == "pending"
    [failed] = events(client, "job.failed")
    assert failed.level == "ERROR"
    assert failed.get("failures") == [{"step": "a", "kind": "qa", "message": "a did not work"}]


def test_two_failures_are_both_told(client: redis.Redis, state: State) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    claim(state, sent["a"])
    claim(state, sent["b"])

    fail(state, "b")
    fail(state, "a")

    [failed] = events(client, "job.failed")
    assert [one["step"] for one in failed.get("failures")] == ["b", "a"]


@pytest.mark.parametrize("driver", ["ready", "canvas"])
def test_after_a_failure_queued_steps_are_void(client: redis.Redis, state: State, driver: str) -> None:
    sent = submit(state, {"a": (), "b": (), "c": ()}, driver)
    claim(state, sent["a"])
    claim(state, sent["b"])
    fail(state, "a")

    assert claim(state, sent["c"]) == Claim("void", "the job is over")
    succeed(state, "b")
    assert state.job(JOB)["status"] == "failed"
    assert claim(state, sent["c"]) == Claim("void", "the job is over")


@pytest.mark.parametrize("driver", ["ready", "canvas"])
def test_after_a_failure_a_neighbours_success_starts_nothing(
    client: redis.Redis, state: State, driver: str
) -> None:
    sent = submit(state, {"a": (), "b": (), "c": ("b",)}, driver)
    claim(state, sent["a"])
    claim(state, sent["b"])
    fail(state, "a")

    assert succeed(state, "b") == []
    assert "c" not in steps_with(client, "step.queued")
    assert statuses(client)["c"] == "pending"


def test_a_failed_step_frees_no_place_for_others(client: redis.Redis, state: State) -> None:
    sent = submit(state, {"a": (), "b": (), "c": (), "d": ()}, concurrency=2)
    claim(state, sent["a"])
    claim(state, sent["b"])

    assert fail(state, "a") == []
    assert succeed(state, "b") == []
    assert statuses(client) == {"a": "failed", "b": "succeeded", "c": "pending", "d": "pending"}


@pytest.mark.parametrize("end", ["cancel", "abort", "fail"])
@pytest.mark.parametrize("driver", ["ready", "canvas"])
def test_records_and_events_agree_on_every_step_when_a_job_ends_early(
    client: redis.Redis, state: State, driver: str, end: str
) -> None:
    # given steps that are done, running, queued and pending
    needs = {"done": (), "running": (), "queued": (), "waiting": (), "pending": ("running",)}
    sent = submit(state, needs, driver, concurrency=3)
    sent |= run(state, sent["done"])
    claim(state, sent["running"])

    # when the job ends
    if end == "cancel":
        state.cancel(JOB, "enough")
    elif end == "abort":
        state.abort(JOB, Failure(step=None, kind="timeout", message="too long"))
    else:
        fail(state, "running")

    # then both tell the same
    progress = Progress.of(JOB, events(client))
    assert {step.id: step.status for step in progress.steps.values()} == statuses(client)
    assert progress.status == state.job(JOB)["status"]


def test_a_job_that_breaks_a_limit_still_tells_of_the_step_that_had_failed(
    client: redis.Redis, state: State
) -> None:
    # given a job whose one step has failed while another still runs
    sent = submit(state, SIDE_BY_SIDE)
    claim(state, sent["a"])
    claim(state, sent["b"])
    fail(state, "a")

    # when it runs out of time before that one ends
    state.abort(JOB, Failure(step=None, kind="timeout", message="too long"))

    # then `orch show` has both failures
    progress = Progress.of(JOB, events(client))
    assert sorted(failure.kind for failure in progress.failures) == ["qa", "timeout"]


# --- ready ------------------------------------------------------------------------------------------------------------


def test_a_commit_dispatches_exactly_what_became_ready(client: redis.Redis, state: State) -> None:
    # given the plan that no canvas can express: c needs a and b, d needs b alone
    needs = {"a": (), "b": (), "c": ("a", "b"), "d": ("b",), "e": ("c", "d")}
    sent = submit(state, needs, concurrency=9)
    assert set(sent) == {"a", "b"}

    assert set(run(state, sent["b"])) == {"d"}
    assert set(run(state, sent["a"])) == {"c"}


def test_a_job_never_has_more_than_its_concurrency_outstanding(client: redis.Redis, state: State) -> None:
    # given a wide job with two places
    needs = {f"s{number}": () for number in range(7)}
    outstanding = submit(state, needs, concurrency=2)
    done = []

    # when its steps are run, each claim and commit repeated as a queue that delivers twice would
    while outstanding:
        assert len(outstanding) <= 2
        assert set(outstanding) == {member.decode() for member in client.smembers(f"orch:{{{JOB}}}:active")}
        one = outstanding.pop(next(iter(outstanding)))
        claim(state, one)
        claim(state, one, "other")
        sent = by_step(succeed(state, one.step))
        assert by_step(succeed(state, one.step)) == sent
        outstanding |= sent
        done.append(one.step)

    # then each was run once
    assert sorted(done) == sorted(needs)
    assert state.job(JOB)["status"] == "succeeded"


@pytest.mark.parametrize("concurrency", [1, 7, 1000])
def test_a_step_may_fan_out_to_fifty_and_in_again(
    client: redis.Redis, state: State, concurrency: int
) -> None:
    wide = {f"w{number}": ("first",) for number in range(50)}
    waiting = submit(state, {"first": (), **wide, "last": tuple(wide)}, concurrency=concurrency)

    order = []
    while waiting:
        one = waiting.pop(next(iter(waiting)))
        waiting |= run(state, one)
        order.append(one.step)
        assert client.scard(f"orch:{{{JOB}}}:active") <= concurrency

    assert order[0] == "first"
    assert order[-1] == "last"
    assert sorted(order[1:-1]) == sorted(wide)
    assert state.job(JOB)["status"] == "succeeded"


def test_an_attempt_of_a_canvas_gives_every_open_step_a_ticket(client: redis.Redis, state: State) -> None:
    sent = submit(state, DIAMOND, driver="canvas", concurrency=2)
    assert {one.step: one.ticket for one in sent.values()} == {"a": 1, "b": 1, "c": 1, "d": 1}

    # and a commit dispatches nothing, since Celery does
    assert run(state, sent["a"]) == {}
    assert run(state, sent["b"]) == {}

    # and the next attempt has new tickets for what is not done
    state.cancel(JOB, "enough")
    again = by_step(state.resume(JOB, "canvas", {}))
    assert {one.step: one.ticket for one in again.values()} == {"c": 2, "d": 2}


# --- resume -----------------------------------------------------------------------------------------------------------


def test_resume_runs_only_what_is_not_done(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    sent |= run(state, sent["a"])
    claim(state, sent["b"])
    claim(state, sent["c"])
    succeed(state, "c")
    fail(state, "b")

    again = by_step(state.resume(JOB, "ready", {}))

    assert set(again) == {"b"}
    assert again["b"].ticket > sent["b"].ticket
    assert sorted(filter(None, steps_with(client, "step.skipped"))) == ["a", "c"]
    assert run(state, run(state, again["b"])["d"]) == {}
    assert state.job(JOB)["status"] == "succeeded"
    assert "failures" not in state.job(JOB)


def test_two_resumes_at_once_make_one_attempt(client: redis.Redis, state: State) -> None:
    submit(state)
    state.cancel(JOB, "enough")
    start = threading.Barrier(2)

    def resume(_: int) -> list[Dispatch] | Stale:
        start.wait()
        return state.resume(JOB, "ready", {})

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(resume, range(2)))

    assert sorted(isinstance(answer, Stale) for answer in answers) == [False, True]
    assert Stale("queued") in answers
    assert state.job(JOB)["attempt"] == "2"
    assert len(events(client, "job.resumed")) == 1


@pytest.mark.parametrize("status", ["queued", "running", "succeeded"])
def test_a_job_that_did_not_end_badly_is_not_resumed(client: redis.Redis, state: State, status: str) -> None:
    sent = submit(state, {"a": ()})
    if status != "queued":
        claim(state, sent["a"])
    if status == "succeeded":
        succeed(state, "a")
    before = everything(client)

    assert state.resume(JOB, "ready", {}) == Stale(status)
    assert everything(client) == before


def test_a_forced_resume_takes_a_running_job_from_its_workers(client: redis.Redis, state: State) -> None:
    sent = submit(state, {"a": (), "b": ()}, concurrency=1)
    claim(state, sent["a"], "old")

    again = by_step(state.resume(JOB, "ready", {}, force=True))

    assert isinstance(succeed(state, "a", "old"), Stale)
    assert claim(state, again["a"], "new").verdict == "run"
    assert client.scard(f"orch:{{{JOB}}}:active") == 1


def test_a_forced_resume_of_a_job_that_is_done_ends_it_again(client: redis.Redis, state: State) -> None:
    run(state, submit(state, {"a": ()})["a"])

    assert state.resume(JOB, "ready", {}, force=True) == []

    assert state.job(JOB)["status"] == "succeeded"
    assert [event.type for event in events(client)][-3:] == ["job.resumed", "step.skipped", "job.succeeded"]
    assert client.ttl(JobKeys(JOB).job) > 0


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_cancel_stops_a_job_once(client: redis.Redis, state: State) -> None:
    submit(state)
    assert state.cancel(JOB, "enough") is True
    before = everything(client)

    assert state.cancel(JOB, "again") is False
    assert state.abort(JOB, Failure(step=None, kind="timeout", message="too long")) is False
    assert everything(client) == before
    assert [event.get("reason") for event in events(client, "job.cancelled")] == ["enough"]


def test_a_job_that_succeeded_is_not_cancelled(client: redis.Redis, state: State) -> None:
    run(state, submit(state, {"a": ()})["a"])

    assert state.cancel(JOB, "late") is False
    assert state.job(JOB)["status"] == "succeeded"


def test_a_running_step_learns_within_a_second_that_its_job_was_cancelled(
    client: redis.Redis, state: State
) -> None:
    # given a step that runs under the default lease
    claim(state, submit(state)["a"], "mine")
    with Heartbeat(state, lease_s=15).holding(JOB, "a", "mine") as hold:
        # when its job is cancelled
        state.cancel(JOB, "enough")

        # then it is told ("running calls within a second", DESIGN section 4)
        assert hold.stopped.wait(1)
        assert hold.reason == "lost"


def test_a_running_step_of_another_job_is_not_stopped_when_a_job_ends(
    client: redis.Redis, state: State
) -> None:
    # given two running jobs of one worker
    claim(state, submit(state)["a"], "mine")
    claim(state, submit(state, job=OTHER)["a"], "other", job=OTHER)
    heartbeat = Heartbeat(state, lease_s=15)
    with heartbeat.holding(JOB, "a", "mine") as mine, heartbeat.holding(OTHER, "a", "other") as other:
        # when one is cancelled
        state.cancel(JOB, "enough")

        # then the other goes on
        assert mine.stopped.wait(1)
        assert not other.stopped.wait(0.5)


def test_a_lease_outlives_its_length_while_its_heartbeat_beats(client: redis.Redis, state: State) -> None:
    # given a step with a lease of less than a second, held for longer than that
    claim(state, submit(state)["a"], "mine", lease_s=0.9)
    with Heartbeat(state, lease_s=0.9).holding(JOB, "a", "mine") as hold:
        assert not hold.stopped.wait(1.5)

        # then recovery leaves it alone
        assert state.recover(JOB, calm=True, grace_s=1000) == []
        assert statuses(client)["a"] == "running"

    # and when it is held no more, the lease runs out
    pause(1.0)
    assert set(by_step(state.recover(JOB, calm=True, grace_s=1000))) == {"a"}


def test_a_step_that_runs_into_its_time_limit_is_told_so(client: redis.Redis, state: State) -> None:
    claim(state, submit(state)["a"], "mine")
    with Heartbeat(state, lease_s=15).holding(JOB, "a", "mine") as hold:
        hold.limit(0.1)

        assert hold.stopped.wait(1)
        assert (hold.reason, hold.limit_s) == ("timeout", 0.1)


# --- renew ------------------------------------------------------------------------------------------------------------


def test_a_lease_is_prolonged_also_after_it_ran_out(client: redis.Redis, state: State) -> None:
    leases = f"orch:{{{JOB}}}:leases"
    sent = submit(state)
    claim(state, sent["a"], "mine", lease_s=-1)
    overdue = client.zscore(leases, "a")

    assert renew(state, "a", "mine") is True
    prolonged = client.zscore(leases, "a")
    assert overdue
    assert prolonged
    assert prolonged > overdue + 30_000


def test_a_lease_that_is_not_the_callers_is_not_prolonged(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    before = everything(client)

    assert renew(state, "a", "another's") is False
    assert renew(state, "b", "token-b") is False
    assert renew(state, "unknown", "mine") is False
    assert everything(client) == before


def test_many_leases_are_prolonged_in_one_go_and_each_is_answered_for_itself(
    client: redis.Redis, state: State
) -> None:
    sent = submit(state, {"a": (), "b": (), "c": ()})
    for step in ("a", "b", "c"):
        claim(state, sent[step], lease_s=-1)
    succeed(state, "b")

    held = [(JOB, "a", "token-a"), (JOB, "b", "token-b"), (OTHER, "a", "x"), (JOB, "c", "token-c")]
    assert state.renew(held, 30) == [True, False, False, True]
    assert state.renew([], 30) == []
    soon = client.time()[0] * 1000 + 20_000
    assert client.zcount(f"orch:{{{JOB}}}:leases", soon, "+inf") == 2


def test_a_step_that_is_done_has_no_lease(client: redis.Redis, state: State) -> None:
    run(state, submit(state)["a"])

    assert renew(state, "a", "token-a") is False
    assert client.exists(f"orch:{{{JOB}}}:leases") == 0


# --- restore ----------------------------------------------------------------------------------------------------------


def restore(state: State, history: list[Event], kept: Mapping[str, StepResult], status: str) -> bool:
    records = {
        step: {
            "kind": "prompt",
            "status": "succeeded",
            **dict.fromkeys(("ticket", "runs", "unmet", "losses", "tries"), 0),
        }
        for step in kept
    }
    fields = job_fields(DIAMOND) | {"status": status, "attempt": 1, "created_ms": history[0].at_ms}
    return state.restore(JOB, fields, plan_of(DIAMOND).dependents, records, kept, history)


def lost_job(client: redis.Redis, state: State) -> tuple[list[Event], StepResult]:
    """A job that has come half way when Redis is wiped: its history, and the one result that was kept."""
    sent = submit(state)
    claim(state, sent["a"])
    result, blobs = with_file(b"kept")
    sent |= by_step(succeed(state, "a", None, result, blobs))
    claim(state, sent["b"])
    fail(state, "b")
    history = events(client)
    client.flushall()
    return history, result


def test_a_restored_job_has_its_history_and_goes_on_where_it_was(client: redis.Redis, state: State) -> None:
    history, result = lost_job(client, state)

    # when
    assert restore(state, history, {"a": result}, "failed") is True

    # then
    assert events(client) == history
    assert state.jobs() == [JOB]
    assert state.succeeded(JOB) == {"a"}
    again = by_step(state.resume(JOB, "ready", {}))
    assert set(again) == {"b", "c"}
    assert state.job(JOB)["attempt"] == "2"
    run(state, (run(state, again["b"]) | run(state, again["c"]))["d"])
    assert state.job(JOB)["status"] == "succeeded"
    assert [event.order for event in events(client)] == sorted(event.order for event in events(client))


def test_a_restored_file_is_known_to_later_commits(client: redis.Redis, state: State) -> None:
    history, result = lost_job(client, state)
    restore(state, history, {"a": result}, "failed")
    again = by_step(state.resume(JOB, "ready", {}))
    claim(state, again["b"])

    succeed(state, "b", None, *with_file(b"kept"))

    assert events(client, "file.written")[-1].get("reason") == "nochange"


def test_a_job_that_redis_knows_is_not_restored(client: redis.Redis, state: State) -> None:
    history, result = lost_job(client, state)
    submit(state)
    before = everything(client)

    assert restore(state, history, {"a": result}, "failed") is False
    assert everything(client) == before


def test_an_event_id_of_the_future_does_not_stop_a_restored_job(client: redis.Redis, state: State) -> None:
    # given a history that was written where the clock was ahead of this Redis
    history, result = lost_job(client, state)
    ahead = [
        event.model_copy(update={"id": f"{event.at_ms + 10**9}-{number}"})
        for number, event in enumerate(history)
    ]

    # when
    restore(state, ahead, {"a": result}, "failed")
    state.resume(JOB, "ready", {})

    # then its events are still in order
    assert [event.type for event in events(client)][: len(ahead) + 1] == [
        *(event.type for event in ahead),
        "job.resumed",
    ]


# --- stops ------------------------------------------------------------------------------------------------------------


def test_workers_can_tell_that_some_job_has_ended_and_nothing_else(client: redis.Redis, state: State) -> None:
    sent = submit(state, PAIR)
    submit(state, PAIR, job=OTHER)
    before = state.stops()
    sent |= run(state, sent["a"])
    claim(state, sent["b"])
    assert renew(state, "b", "token-b")
    assert state.stops() == before

    seen = [before]
    for end in (lambda: succeed(state, "b"), lambda: state.cancel(OTHER, "enough")):
        end()
        seen.append(state.stops())

    assert len(set(seen)) == 3


# --- release ----------------------------------------------------------------------------------------------------------


def test_a_step_that_is_given_back_goes_to_another_worker_at_once(client: redis.Redis, state: State) -> None:
    # given a step whose worker is told to go
    old = submit(state)["a"]
    claim(state, old, "old")

    # when it gives the step back
    new = by_step(state.release(JOB, "a", "old", "its worker was shut down"))["a"]

    # then the step is another's, and nothing of the old run counts
    assert new.ticket > old.ticket
    assert claim(state, old, "late") == Claim("void", "old ticket")
    assert claim(state, new, "new") == Claim("run")
    assert renew(state, "a", "old") is False
    assert isinstance(succeed(state, "a", "old"), Stale)
    assert isinstance(fail(state, "a", "old"), Stale)
    assert set(by_step(succeed(state, "a", "new"))) == {"b", "c"}
    [told] = events(client, "step.retrying")
    assert (told.step, told.level) == ("a", "WARN")
    assert told.data == {"reason": "its worker was shut down", "wait_ms": 0, "tries": 0}


def test_nobody_is_blamed_for_a_step_that_is_given_back(client: redis.Redis, state: State) -> None:
    one = submit(state)["a"]

    for _ in range(5):
        assert claim(state, one).verdict == "run"
        one = by_step(state.release(JOB, "a", "token-a", "its worker was shut down"))["a"]

    assert steps_with(client, "step.lost") == []


def test_a_step_that_is_given_back_keeps_its_place(client: redis.Redis, state: State) -> None:
    # given a job with one place and steps that wait for it
    sent = submit(state, {"a": (), "b": (), "c": ()}, concurrency=1)
    claim(state, sent["a"])

    again = by_step(state.release(JOB, "a", "token-a", "its worker was shut down"))

    assert set(again) == {"a"}
    assert client.smembers(f"orch:{{{JOB}}}:active") == {b"a"}


def test_a_parked_step_holds_nothing_and_its_place_goes_to_another(client: redis.Redis, state: State) -> None:
    sent = submit(state, {"a": (), "b": (), "c": ()}, concurrency=1)
    claim(state, sent["a"])

    released = by_step(state.release(JOB, "a", "token-a", "rate limited", 60))

    assert set(released) == {"b"}
    assert statuses(client) == {"a": "parked", "b": "queued", "c": "pending"}
    assert client.smembers(f"orch:{{{JOB}}}:active") == {b"b"}
    assert client.hgetall(FLEET["HELD"]) == {}
    assert client.exists(f"orch:{{{JOB}}}:leases") == 0
    assert state.job(JOB)["status"] == "running"
    [told] = events(client, "step.retrying")
    assert told.data == {"reason": "rate limited", "wait_ms": 60_000, "tries": 1}


def test_a_parked_step_cannot_be_claimed_committed_or_renewed(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    state.release(JOB, "a", "token-a", "rate limited", 60)
    before = everything(client)

    assert claim(state, sent["a"]).verdict == "void"
    assert claim(state, sent["a"], "another").verdict == "void"
    assert isinstance(succeed(state, "a"), Stale)
    assert isinstance(fail(state, "a"), Stale)
    assert isinstance(state.release(JOB, "a", "token-a", "again", 60), Stale)
    assert renew(state, "a", "token-a") is False
    assert everything(client) == before


def test_a_parked_step_is_sent_when_it_is_due_and_not_before(client: redis.Redis, state: State) -> None:
    old = submit(state)["a"]
    claim(state, old)
    state.release(JOB, "a", "token-a", "rate limited", 0.3)

    assert recover(state) == {}
    pause(0.31)
    new = recover(state)["a"]

    assert new.ticket > old.ticket
    assert claim(state, old, "late") == Claim("void", "old ticket")
    assert claim(state, new) == Claim("run")
    assert recover(state) == {}


def test_each_time_a_step_is_parked_is_counted_until_the_next_attempt(
    client: redis.Redis, state: State
) -> None:
    one = submit(state)["a"]
    for _ in range(3):
        assert claim(state, one).verdict == "run"
        state.release(JOB, "a", "token-a", "rate limited", 0.001)
        pause(0.005)
        one = recover(state)["a"]
    assert [told.get("tries") for told in events(client, "step.retrying")] == [1, 2, 3]

    state.cancel(JOB, "enough")
    claim(state, by_step(state.resume(JOB, "ready", {}))["a"])
    state.release(JOB, "a", "token-a", "rate limited", 60)

    assert events(client, "step.retrying")[-1].get("tries") == 1


def test_what_a_run_leaves_for_the_next_goes_with_the_step_until_another_replaces_it(state: State) -> None:
    # given a run that was given back with a note of how far it got
    one = submit(state)["a"]
    assert claim(state, one) == Claim("run", retry="")
    one = by_step(state.release(JOB, "a", "token-a", "rate limited", retry='{"failed":2}'))["a"]

    # then the next one has it, also when its claim is repeated, or it dies and yet another runs
    assert claim(state, one, "next", lease_s=-1) == Claim("run", retry='{"failed":2}')
    assert claim(state, one, "next") == Claim("run", retry='{"failed":2}')
    one = recover(state)["a"]
    assert claim(state, one, "third") == Claim("run", retry='{"failed":2}')

    # until it is given back without one, or the job is begun anew
    one = by_step(state.release(JOB, "a", "third", "its worker was shut down"))["a"]
    assert claim(state, one, "fourth") == Claim("run", retry="")
    state.release(JOB, "a", "fourth", "rate limited", retry='{"failed":2}')
    state.cancel(JOB, "enough")
    assert claim(state, by_step(state.resume(JOB, "ready", {}))["a"], "fifth") == Claim("run", retry="")


@pytest.mark.parametrize("wait_s", [0, 60])
def test_a_step_that_is_not_the_callers_cannot_be_given_back(
    client: redis.Redis, state: State, wait_s: float
) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    sent |= run(state, sent["b"])
    claim(state, sent["a"], "mine")
    before = everything(client)

    for step, token in (("a", "another's"), ("a", ""), ("b", "token-b"), ("c", "token-c"), ("z", "mine")):
        assert isinstance(state.release(JOB, step, token, "shut down", wait_s), Stale)
    assert everything(client) == before


@pytest.mark.parametrize("wait_s", [0, 60])
def test_a_step_is_given_back_once(client: redis.Redis, state: State, wait_s: float) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    state.release(JOB, "a", "token-a", "shut down", wait_s)
    before = everything(client)

    assert isinstance(state.release(JOB, "a", "token-a", "shut down", wait_s), Stale)
    assert everything(client) == before


@pytest.mark.parametrize("wait_s", [0, 60])
def test_a_step_of_a_failing_job_that_is_given_back_is_not_sent_again(
    client: redis.Redis, state: State, wait_s: float
) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    claim(state, sent["a"])
    claim(state, sent["b"])
    fail(state, "a")

    # when the last running step is given back, for now or for later
    assert state.release(JOB, "b", "token-b", "rate limited", wait_s) == []

    # then nothing is left to wait for
    assert state.job(JOB)["status"] == "failed"
    assert statuses(client) == {"a": "failed", "b": "pending", "c": "pending"}
    assert events(client, "step.retrying")[0].get("wait_ms") == 0


@pytest.mark.parametrize("wait_s", [0, 0.001])
def test_a_job_whose_step_is_given_back_leaves_its_canvas_and_comes_to_its_end(
    client: redis.Redis, state: State, wait_s: float
) -> None:
    # given a canvas, whose messages all have their tickets from the start, and a step of it that goes back
    canvas = submit(state, DIAMOND, driver="canvas")
    run(state, canvas["a"])
    claim(state, canvas["b"], "old")
    sent = by_step(state.release(JOB, "b", "old", "shut down", wait_s))
    if wait_s:
        assert sent == {}
        pause(0.01)
        sent = recover(state)
    assert set(sent) == {"b"}

    # then what was already on its way is good
    assert run(state, canvas["c"]) == {}

    # and what comes next is sent by the commits; Celery's own message of it, should it come, is void
    last = run(state, sent["b"])["d"]
    assert claim(state, canvas["d"], "late") == Claim("void", "old ticket")
    run(state, last)
    assert state.job(JOB)["status"] == "succeeded"
    assert sorted(filter(None, steps_with(client, "step.succeeded"))) == ["a", "b", "c", "d"]


# --- recover: workers that died ---------------------------------------------------------------------------------------


def test_a_step_whose_lease_ran_out_is_lost_and_sent_again(client: redis.Redis, state: State) -> None:
    old = submit(state)["a"]
    claim(state, old, "zombie", lease_s=-1, worker="host:7")

    new = recover(state)["a"]

    assert new.ticket > old.ticket
    assert (events(client)[-2].type, events(client)[-1].type) == ("step.lost", "step.queued")
    [lost] = events(client, "step.lost")
    assert (lost.step, lost.level) == ("a", "WARN")
    assert lost.data == {"reason": "its worker fell silent", "losses": 1, "worker": "host:7"}
    # and nothing of the old run counts
    assert client.hgetall(FLEET["HELD"]) == {}
    assert claim(state, old, "late") == Claim("void", "old ticket")
    assert renew(state, "a", "zombie") is False
    assert isinstance(succeed(state, "a", "zombie"), Stale)
    assert isinstance(state.release(JOB, "a", "zombie", "shut down"), Stale)
    assert claim(state, new).verdict == "run"
    assert recover(state) == {}


def test_leases_are_not_acted_on_while_the_fleet_is_rough(client: redis.Redis, state: State) -> None:
    # given a lease that ran out in an outage, whose worker lives
    claim(state, submit(state)["a"], "mine", lease_s=-1)

    assert recover(state, calm=False) == {}

    # then its worker may still renew it
    assert renew(state, "a", "mine")
    assert recover(state) == {}
    assert steps_with(client, "step.lost") == []


def test_recovering_one_step_leaves_the_jobs_other_messages_and_runs_alone(
    client: redis.Redis, state: State
) -> None:
    # given steps that are done, running, queued and lost
    needs = {"done": (), "running": (), "queued": (), "lost": (), "waiting": ()}
    sent = submit(state, needs, concurrency=4)
    claim(state, sent["running"])
    claim(state, sent["lost"], lease_s=-1)
    sent |= run(state, sent["done"])
    before = {step: record for step, record in records(client).items() if step != "lost"}

    assert set(recover(state, grace_s=1000)) == {"lost"}

    after = records(client)
    for step in ("queued", "waiting"):  # only when its message was looked for is noted
        after[step].pop("passed", None)
    assert {step: record for step, record in after.items() if step != "lost"} == before
    assert renew(state, "running", "token-running")
    assert claim(state, sent["queued"]).verdict == "run"


def test_a_job_whose_step_was_lost_leaves_its_canvas_and_comes_to_its_end(
    client: redis.Redis, state: State
) -> None:
    # given a canvas of which a worker takes one of two steps with it
    canvas = submit(state, DIAMOND, driver="canvas")
    run(state, canvas["a"])
    claim(state, canvas["c"])
    claim(state, canvas["b"], lease_s=-1)

    again = recover(state)["b"]

    # then the rest is driven by commits, and each step is done once
    assert run(state, again) == {}
    last = by_step(succeed(state, "c"))["d"]
    assert claim(state, canvas["d"], "late") == Claim("void", "old ticket")
    run(state, last)
    assert state.job(JOB)["status"] == "succeeded"
    assert sorted(filter(None, steps_with(client, "step.succeeded"))) == ["a", "b", "c", "d"]


def test_lost_steps_go_first_and_never_take_more_than_the_jobs_places(
    client: redis.Redis, state: State
) -> None:
    sent = submit(state, {f"s{number}": () for number in range(6)}, concurrency=2)
    claim(state, sent["s0"], lease_s=-1)
    claim(state, sent["s1"], lease_s=-1)

    again = recover(state)

    assert set(again) == {"s0", "s1"}
    assert client.smembers(f"orch:{{{JOB}}}:active") == {b"s0", b"s1"}
    outstanding, done = again, []
    while outstanding:
        assert len(outstanding) <= 2
        step, one = outstanding.popitem()
        outstanding |= run(state, one)
        done.append(step)
    assert sorted(done) == [f"s{number}" for number in range(6)]
    assert state.job(JOB)["status"] == "succeeded"


def test_a_failing_job_ends_when_its_last_running_step_is_lost(client: redis.Redis, state: State) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    claim(state, sent["a"])
    claim(state, sent["b"], lease_s=-1)
    fail(state, "a")
    assert state.job(JOB)["status"] == "running"

    assert recover(state) == {}

    assert state.job(JOB)["status"] == "failed"
    assert statuses(client) == {"a": "failed", "b": "pending", "c": "pending"}
    assert [one["step"] for one in events(client, "job.failed")[0].get("failures")] == ["a"]
    nothing_is_held(client)


def test_of_two_leaders_at_once_one_sends_what_was_lost(client: redis.Redis, state: State) -> None:
    sent = submit(state, {f"s{number}": () for number in range(4)})
    for one in sent.values():
        claim(state, one, lease_s=-1)
    start = threading.Barrier(4)

    def lead(_: int) -> list[Dispatch]:
        start.wait()
        return state.recover(JOB, calm=True, grace_s=1000)

    with ThreadPoolExecutor(4) as pool:
        answers = [one.step for answer in pool.map(lead, range(4)) for one in answer]

    assert sorted(answers) == sorted(sent)
    assert len(steps_with(client, "step.lost")) == 4


@pytest.mark.parametrize("end", ["cancelled", "succeeded", "unknown"])
def test_a_job_that_is_over_is_not_recovered(client: redis.Redis, state: State, end: str) -> None:
    sent = submit(state, {"a": ()})
    if end == "cancelled":
        claim(state, sent["a"], lease_s=-1)
        state.cancel(JOB, "enough")
    elif end == "succeeded":
        run(state, sent["a"])
    else:
        client.delete(*of_the_job(client))
    client.sadd(FLEET["ALIVE"], JOB)
    told = events(client)

    assert recover(state, grace_s=-1) == {}

    assert client.exists(FLEET["ALIVE"]) == 0
    assert events(client) == told


# --- recover: messages that are gone ----------------------------------------------------------------------------------


def fill_queue(client: redis.Redis) -> None:
    """Messages that have nothing to do with the jobs here: a queue with so many is long."""
    client.rpush(QUEUE_LIST, *["{}"] * 100)


def test_a_message_that_an_empty_queue_does_not_have_is_lost_after_the_grace(
    client: redis.Redis, state: State
) -> None:
    old = submit(state)["a"]

    # a worker may have taken it a moment ago: it has the grace to claim
    assert recover(state, grace_s=0.2) == {}
    assert recover(state, grace_s=0.2) == {}
    pause(0.25)
    new = recover(state, grace_s=0.2)["a"]

    assert new.ticket > old.ticket
    assert events(client, "step.lost")[0].data == {"reason": "its message is gone"}
    assert claim(state, old, "late") == Claim("void", "old ticket")
    assert claim(state, new).verdict == "run"
    assert recover(state, grace_s=-1) == recover(state, grace_s=-1) == {}


def test_nobody_is_blamed_for_a_message_that_is_gone(client: redis.Redis, state: State) -> None:
    one = submit(state)["a"]
    for _ in range(5):
        recover(state, grace_s=-1)
        one = recover(state, grace_s=-1)["a"]

    assert claim(state, one).verdict == "run"


def test_a_message_that_waits_in_a_long_queue_is_not_lost(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    fill_queue(client)

    for _ in range(3):
        assert recover(state, grace_s=-1) == {}
        pause(0.01)

    assert steps_with(client, "step.lost") == []
    assert claim(state, sent["a"]).verdict == "run"


def test_a_message_that_the_queue_has_passed_is_lost_however_long_the_queue_is(
    client: redis.Redis, state: State
) -> None:
    # given a message that got lost, and one that was sent a thousand messages later and has been claimed
    lost = submit(state)["a"]
    client.hincrby(FLEET["TICKETS"], f"next {QUEUE}", 1000)
    later = submit(state, job=OTHER)["a"]
    fill_queue(client)
    assert recover(state, grace_s=-1) == recover(state, grace_s=-1) == {}
    assert claim(state, later, job=OTHER).verdict == "run"

    # then it is noticed, and made good after the grace
    assert recover(state, grace_s=0.1) == {}
    pause(0.15)
    assert recover(state, grace_s=0.1)["a"].ticket > lost.ticket
    # and the new message is at the end of the queue, where nothing has passed it
    assert recover(state, grace_s=-1) == recover(state, grace_s=-1) == {}


def test_a_message_that_the_next_few_have_overtaken_is_not_lost(client: redis.Redis, state: State) -> None:
    # given a message whose sender is slower than that of the next, as order is given before a message is sent
    slow = submit(state)["a"]
    fast = submit(state, {f"s{number}": () for number in range(8)}, concurrency=8, job=OTHER)
    fill_queue(client)
    for one in fast.values():
        assert claim(state, one, job=OTHER).verdict == "run"

    for _ in range(3):
        assert recover(state, grace_s=-1) == {}
        pause(0.002)

    assert claim(state, slow).verdict == "run"


def test_a_message_that_comes_back_into_a_queue_is_given_the_whole_grace_again(
    client: redis.Redis, state: State
) -> None:
    # given a message that was out of the queue for a moment, as when Celery moves it
    submit(state)
    assert recover(state, grace_s=0.2) == {}
    fill_queue(client)
    assert recover(state, grace_s=0.2) == {}
    pause(0.25)
    client.delete(QUEUE_LIST)

    # then the time before does not count
    assert recover(state, grace_s=0.2) == {}
    pause(0.25)
    assert set(recover(state, grace_s=0.2)) == {"a"}


def test_a_message_that_was_claimed_within_the_grace_is_not_lost(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    assert recover(state, grace_s=-1) == {}

    claim(state, sent["a"])

    assert recover(state, grace_s=-1) == {}
    assert statuses(client)["a"] == "running"


def test_a_lost_message_of_a_canvas_makes_the_job_leave_it(client: redis.Redis, state: State) -> None:
    # given a canvas whose worker died between a commit and the sending of what comes next
    canvas = submit(state, PAIR, driver="canvas")
    run(state, canvas["a"])
    recover(state, grace_s=-1)

    again = recover(state, grace_s=-1)["b"]

    assert claim(state, canvas["b"], "late") == Claim("void", "old ticket")
    run(state, again)
    assert state.job(JOB)["status"] == "succeeded"


def test_messages_are_looked_for_in_rough_times_too(client: redis.Redis, state: State) -> None:
    submit(state)
    recover(state, calm=False, grace_s=-1)

    assert set(recover(state, calm=False, grace_s=-1)) == {"a"}


# --- recover: time and places -----------------------------------------------------------------------------------------


def test_a_job_that_outlives_its_time_fails_whatever_its_steps_do(client: redis.Redis, state: State) -> None:
    # given steps that run, wait in the queue, wait for a place and are parked
    needs: dict[str, tuple[str, ...]] = {"a": (), "b": (), "c": (), "d": ()}
    sent = submit(state, needs, concurrency=2, timeout_ms=1)
    claim(state, sent["a"])
    claim(state, sent["b"])
    state.release(JOB, "b", "token-b", "rate limited", 60)
    pause(0.01)

    assert recover(state, calm=False) == {}

    [failed] = events(client, "job.failed")
    [failure] = failed.get("failures")
    assert (failure["step"], failure["kind"]) == (None, "timeout")
    assert "timeout_s" in failure["message"]
    assert Progress.of(JOB, events(client)).failures == [Failure.model_validate(failure)]
    assert isinstance(succeed(state, "a"), Stale)
    assert all(claim(state, one, "late").verdict == "void" for one in sent.values())
    assert set(statuses(client).values()) == {"pending"}
    nothing_is_held(client)
    assert recover(state) == {}
    assert len(events(client, "job.failed")) == 1


def test_a_job_that_outlives_its_time_also_tells_which_step_had_failed(
    client: redis.Redis, state: State
) -> None:
    sent = submit(state, SIDE_BY_SIDE, timeout_ms=1)
    claim(state, sent["a"])
    claim(state, sent["b"])
    fail(state, "a")
    pause(0.01)

    recover(state)

    assert [one["kind"] for one in events(client, "job.failed")[0].get("failures")] == ["qa", "timeout"]


def test_a_job_within_its_time_is_left_alone(client: redis.Redis, state: State) -> None:
    sent = submit(state, timeout_ms=60_000)
    claim(state, sent["a"])

    recover(state)

    assert state.job(JOB)["status"] == "running"


def test_every_attempt_has_the_whole_time(client: redis.Redis, state: State) -> None:
    submit(state, timeout_ms=200)
    pause(0.25)
    state.cancel(JOB, "enough")

    state.resume(JOB, "ready", {})

    assert recover(state) == {}
    assert state.job(JOB)["status"] == "queued"


def test_a_parked_step_of_a_failing_job_is_not_sent(client: redis.Redis, state: State) -> None:
    sent = submit(state, {"a": (), "b": (), "c": ()})
    for step in ("a", "b", "c"):
        claim(state, sent[step])
    state.release(JOB, "a", "token-a", "rate limited", 0.001)
    fail(state, "b")
    pause(0.01)

    assert recover(state) == {}
    assert state.job(JOB)["status"] == "running"
    succeed(state, "c")
    assert state.job(JOB)["status"] == "failed"


@pytest.mark.parametrize("failing", [False, True])
def test_a_parked_step_that_is_due_and_has_no_place_ends_with_its_job_as_its_events_tell(
    client: redis.Redis, state: State, failing: bool
) -> None:
    # given a parked step whose time has come while others have all the places, or while the job fails
    sent = submit(state, {"a": (), "b": (), "c": ()}, concurrency=2)
    claim(state, sent["a"])
    claim(state, sent["b"])
    sent |= by_step(state.release(JOB, "a", "token-a", "rate limited", 0.001))
    claim(state, sent["c"])
    if failing:
        fail(state, "c")
    pause(0.01)
    assert recover(state) == {}

    # when the job is cancelled
    state.cancel(JOB, "enough")

    # then
    progress = Progress.of(JOB, events(client))
    assert {step.id: step.status for step in progress.steps.values()} == statuses(client)
    assert statuses(client)["a"] == "cancelled"


# --- lead -------------------------------------------------------------------------------------------------------------


def lead(state: State, worker: str, slots: int = 4, ttl_s: float = 100, settling_s: float = 0) -> Lead | None:
    return state.lead(worker, slots, ttl_s, settling_s)


def test_one_worker_leads_and_goes_on_leading(state: State) -> None:
    assert lead(state, "one") == Lead(calm=True, jobs=())
    assert lead(state, "two") is None
    assert lead(state, "one") == Lead(calm=True, jobs=())
    assert lead(state, "two") is None


def test_of_many_workers_at_once_exactly_one_leads(client: redis.Redis, state: State) -> None:
    start = threading.Barrier(16)

    def worker(number: int) -> Lead | None:
        start.wait()
        return lead(state, f"worker-{number}")

    with ThreadPoolExecutor(16) as pool:
        leads = list(pool.map(worker, range(16)))

    assert sum(one is not None for one in leads) == 1


def test_a_leader_that_falls_silent_is_followed_by_another(state: State) -> None:
    lead(state, "one", ttl_s=0.2)
    assert lead(state, "two", ttl_s=0.2) is None

    pause(0.25)

    assert lead(state, "two", ttl_s=0.2) is not None
    assert lead(state, "one", ttl_s=0.2) is None


def test_a_leader_that_leaves_is_followed_at_once_and_without_a_gap(state: State) -> None:
    lead(state, "one", settling_s=0.1)
    pause(0.15)
    assert lead(state, "one", settling_s=0.1) == Lead(calm=True, jobs=())

    assert lead(state, "one", slots=0, settling_s=0.1) is None

    assert lead(state, "two", settling_s=0.1) == Lead(calm=True, jobs=())


def test_a_follower_that_leaves_does_not_depose_the_leader(state: State) -> None:
    lead(state, "one")
    lead(state, "two")

    assert lead(state, "two", slots=0) is None

    assert lead(state, "three") is None
    assert lead(state, "one") is not None


def test_the_fleet_is_rough_until_leaders_have_looked_for_a_while_without_a_gap(state: State) -> None:
    def calm() -> bool:
        found = lead(state, "one", ttl_s=0.3, settling_s=0.4)
        assert found
        return found.calm

    # given a first leader
    assert calm() is False
    # when it has looked for long enough
    for _ in range(3):
        pause(0.15)
        last = calm()
    assert last is True
    assert calm() is True

    # then a gap, as in an outage of Redis, makes it rough again
    pause(0.4)
    assert calm() is False
    for _ in range(3):
        pause(0.15)
        last = calm()
    assert last is True


def test_a_leader_looks_after_the_jobs_that_have_not_ended(client: redis.Redis, state: State) -> None:
    sent = submit(state, {"a": ()})
    submit(state, {"a": ()}, job=OTHER)

    found = lead(state, "one")
    assert found
    assert set(found.jobs) == {JOB, OTHER}
    run(state, sent["a"])
    assert lead(state, "one") == Lead(calm=True, jobs=(OTHER,))
    state.resume(JOB, "ready", {}, force=True)
    state.cancel(OTHER, "enough")
    assert lead(state, "one") == Lead(calm=True, jobs=())
    state.resume(OTHER, "canvas", {})
    assert lead(state, "one") == Lead(calm=True, jobs=(OTHER,))


def test_the_fleets_slots_are_those_of_the_workers_that_live(client: redis.Redis, state: State) -> None:
    def slots() -> int:
        return int(client.get(FLEET["SLOTS"]) or 0)  # type: ignore[arg-type]

    lead(state, "one", slots=4, ttl_s=0.3)
    lead(state, "two", slots=3)
    assert slots() == 7
    lead(state, "two", slots=0)
    assert slots() == 4
    lead(state, "two", slots=2)
    assert slots() == 6
    pause(0.35)
    lead(state, "two", slots=2)
    assert slots() == 2
    lead(state, "two", slots=0)
    assert slots() == 0
    assert client.exists(FLEET["WORKERS"], FLEET["SLOTS"], FLEET["LEADER"]) == 0


# --- steps that workers die with --------------------------------------------------------------------------------------


def lose(state: State, one: Dispatch, times: int = 2, job: str = JOB, worker: str = "gone:1") -> Dispatch:
    """Have workers die with a step; returns what was sent after the last of them."""
    for _ in range(times):
        assert claim(state, one, job=job, lease_s=-1, worker=worker).verdict == "run"
        one = recover(state, job=job)[one.step]
    return one


def test_a_step_with_which_two_workers_died_runs_alone(client: redis.Redis, state: State) -> None:
    one = lose(state, submit(state)["a"], LOSSES_UNTIL_ALONE - 1)
    assert claim(state, one, lease_s=-1).verdict == "run"
    one = recover(state)["a"]

    # then
    assert claim(state, one, "mine") == Claim("alone")
    assert claim(state, one, "mine") == Claim("alone")
    # and what it makes counts like any other result
    assert set(by_step(succeed(state, "a", "mine"))) == {"b", "c"}
    assert client.hgetall(FLEET["HELD"]) == {}


def test_a_new_attempt_forgets_with_which_steps_workers_died(client: redis.Redis, state: State) -> None:
    lose(state, submit(state)["a"])
    state.cancel(JOB, "enough")

    assert claim(state, by_step(state.resume(JOB, "ready", {}))["a"]).verdict == "run"


def test_in_the_whole_fleet_one_step_runs_alone_at_a_time(client: redis.Redis, state: State) -> None:
    # given two jobs with a suspect step each, one of which runs alone
    first = lose(state, submit(state, PAIR)["a"])
    second = lose(state, submit(state, PAIR, concurrency=1, job=OTHER)["a"], job=OTHER)
    assert claim(state, first, worker="one:1").verdict == "alone"

    # when another worker takes the other
    assert claim(state, second, job=OTHER, worker="two:1") == Claim("void", "another step runs alone")

    # then that is put aside and holds nothing
    assert statuses(client, OTHER)["a"] == "parked"
    assert client.exists(*(f"orch:{{{OTHER}}}:{what}" for what in ("active", "leases", "queued"))) == 0
    assert recover(state, job=OTHER) == {}
    pause(1.05)
    again = recover(state, job=OTHER)["a"]
    # and again as long as the first runs, without being counted as a retry
    assert claim(state, again, job=OTHER, worker="two:1").verdict == "void"
    pause(1.05)
    again = recover(state, job=OTHER)["a"]
    succeed(state, "a")
    assert claim(state, again, job=OTHER, worker="two:1") == Claim("alone")


def test_steps_that_are_not_suspect_run_beside_one_that_is(client: redis.Redis, state: State) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    suspect = lose(state, sent["a"])
    assert claim(state, suspect).verdict == "alone"

    assert claim(state, sent["b"], worker="worker:1").verdict == "run"


def test_a_step_fails_when_a_third_worker_dies_that_ran_nothing_else(
    client: redis.Redis, state: State
) -> None:
    # given a suspect step, alone in its worker; other workers run other things
    sent = submit(state, SIDE_BY_SIDE)
    claim(state, submit(state, job=OTHER)["a"], job=OTHER, worker="other:1")
    suspect = lose(state, sent["a"])
    claim(state, suspect, lease_s=-1, worker="third:1")

    # when that worker dies
    assert recover(state) == {}

    # then it is to blame
    assert [event.get("losses") for event in events(client, "step.lost")] == [1, 2, 3]
    [failed] = events(client, "step.failed")
    assert (failed.step, failed.get("kind"), failed.level) == ("a", "poison", "ERROR")
    [failure] = events(client, "job.failed")[0].get("failures")
    assert (failure["step"], failure["kind"]) == ("a", "poison")
    assert statuses(client) == {"a": "failed", "b": "pending", "c": "pending"}
    nothing_is_held(client, but={f"{OTHER}/a": "other:1"})
    # and should it be alive after all, it hears that what it has counts no more
    assert isinstance(succeed(state, "a"), Stale)
    assert isinstance(fail(state, "a"), Stale)


def test_the_neighbours_of_a_step_that_fails_so_still_commit(client: redis.Redis, state: State) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    suspect = lose(state, sent["a"])
    claim(state, sent["b"], worker="other:1")
    claim(state, suspect, lease_s=-1, worker="third:1")

    recover(state)

    assert state.job(JOB)["status"] == "running"
    assert succeed(state, "b") == []
    assert state.job(JOB)["status"] == "failed"
    assert state.succeeded(JOB) == {"b"}


def test_a_suspect_is_not_blamed_when_its_worker_ran_something_else_of_the_same_job(
    client: redis.Redis, state: State
) -> None:
    sent = submit(state, SIDE_BY_SIDE)
    suspect = lose(state, sent["a"])
    claim(state, suspect, lease_s=-1, worker="third:1")
    claim(state, sent["b"], lease_s=-1, worker="third:1")

    again = recover(state)

    assert set(again) == {"a", "b"}
    assert claim(state, again["a"]).verdict == "alone"
    assert claim(state, again["b"]).verdict == "run"
    assert steps_with(client, "step.failed") == []


@pytest.mark.parametrize("suspect_first", [True, False])
def test_a_suspect_is_not_blamed_when_its_worker_ran_something_of_another_job(
    client: redis.Redis, state: State, suspect_first: bool
) -> None:
    # given a worker that dies with a suspect and with a step of another job
    suspect = lose(state, submit(state)["a"])
    other = submit(state, job=OTHER)["a"]
    claim(state, suspect, lease_s=-1, worker="third:1")
    claim(state, other, job=OTHER, lease_s=-1, worker="third:1")

    # when the leader looks after one job, then after the other
    for job in (JOB, OTHER) if suspect_first else (OTHER, JOB):
        recover(state, job=job)

    # then neither is blamed, whichever it looked after first
    assert steps_with(client, "step.failed") == []
    assert statuses(client)["a"] == "queued"


def test_a_suspect_is_not_blamed_when_what_ran_beside_it_was_lost_a_moment_before(
    client: redis.Redis, state: State
) -> None:
    # given leases of one worker that do not run out in the same second, since one was claimed after the last heartbeat
    sent = submit(state, SIDE_BY_SIDE)
    suspect = lose(state, sent["a"])
    claim(state, sent["b"], lease_s=-1, worker="third:1")
    claim(state, suspect, lease_s=0.2, worker="third:1")

    assert set(recover(state)) == {"b"}
    pause(0.25)

    assert set(recover(state)) == {"a"}
    assert steps_with(client, "step.failed") == []


# --- a fair share of the fleet ----------------------------------------------------------------------------------------

WIDE: dict[str, tuple[str, ...]] = {f"w{number:02}": () for number in range(20)}


@pytest.mark.parametrize(
    ("slots", "others", "share"),
    [(8, 1, 4), (7, 1, 4), (8, 3, 2), (2, 3, 1), (100, 1, 10), (100, 0, 10), (4, 0, 8)],
)
def test_a_job_gets_its_share_of_the_slots_and_at_least_one_place(
    client: redis.Redis, state: State, slots: int, others: int, share: int
) -> None:
    # a job that is alone gets its whole concurrency, up to what keeps the fleet busy
    lead(state, "one", slots=slots)
    for number in range(others):
        submit(state, PAIR, job=f"job_{number:012}")

    assert len(submit(state, WIDE, concurrency=10)) == share


def test_a_job_that_is_submitted_before_any_worker_is_there_gets_its_concurrency(
    client: redis.Redis, state: State
) -> None:
    assert len(submit(state, WIDE, concurrency=10)) == 10


def test_a_wide_job_gives_way_to_one_that_comes_later_and_takes_over_its_places_when_that_ends(
    client: redis.Redis, state: State
) -> None:
    # given a wide job that has the fleet for itself
    lead(state, "one", slots=4)
    outstanding = submit(state, WIDE, concurrency=4)
    assert len(outstanding) == 4

    # when another comes, then it does not replace what ends until it is down to its share
    submit(state, {"a": (), "b": (), "c": ()}, job=OTHER)
    for _ in range(2):
        assert run(state, outstanding.pop(next(iter(outstanding)))) == {}
    assert len(run(state, outstanding.pop(next(iter(outstanding))))) == 1
    assert recover(state) == {}

    # and when that ends, recovery gives it the free places
    state.cancel(OTHER, "enough")
    assert len(recover(state)) == 2
    assert client.scard(f"orch:{{{JOB}}}:active") == 4


def test_a_share_also_counts_what_a_canvas_has_sent(client: redis.Redis, state: State) -> None:
    # given a canvas with two steps on their way, which then leaves its canvas
    lead(state, "one", slots=2)
    submit(state, PAIR, job=OTHER)
    canvas = submit(state, {"a": (), "b": (), "c": ("a", "b")}, driver="canvas")
    assert client.scard(f"orch:{{{JOB}}}:active") == 2
    claim(state, canvas["a"])

    # when one of its steps goes back, it waits until the other, which has the one place that is the job's share
    assert state.release(JOB, "a", "token-a", "shut down") == []
    again = run(state, canvas["b"])

    assert set(again) == {"a"}


# --- resume of a job that is under way --------------------------------------------------------------------------------


def long_ago(client: redis.Redis) -> None:
    """Have the job's attempt begun a while ago."""
    client.hset(JobKeys(JOB).job, mapping={"created_ms": 1, "on_its_way_ms": 1})


@pytest.mark.parametrize("what", ["runs", "is parked", "is in the queue", "has just begun"])
def test_a_job_of_which_something_is_under_way_is_not_resumed(
    client: redis.Redis, state: State, what: str
) -> None:
    sent = submit(state)
    if what != "has just begun":
        long_ago(client)
    if what == "is in the queue":
        fill_queue(client)
    elif what != "has just begun":
        claim(state, sent["a"])
    if what == "is parked":
        state.release(JOB, "a", "token-a", "rate limited", 60)
    before = everything(client)

    assert state.resume(JOB, "ready", {}) == Stale(
        "queued" if what.endswith(("queue", "begun")) else "running"
    )
    assert everything(client) == before


@pytest.mark.parametrize("what", ["its message is gone", "the queue has passed it", "its worker is dead"])
def test_a_stuck_job_may_be_resumed(client: redis.Redis, state: State, what: str) -> None:
    # given a job that nobody will bring on, since no worker is there to recover it
    old = submit(state)["a"]
    long_ago(client)
    if what == "its worker is dead":
        claim(state, old, "zombie", lease_s=-1)
    if what == "the queue has passed it":
        client.hincrby(FLEET["TICKETS"], f"next {QUEUE}", 1000)
        claim(state, submit(state, job=OTHER)["a"], job=OTHER)
        fill_queue(client)

    # when the user resumes it
    new = by_step(state.resume(JOB, "ready", {}))["a"]

    # then it goes on, and nothing of before counts
    assert state.job(JOB)["attempt"] == "2"
    assert claim(state, old, "late").verdict == "void"
    assert isinstance(succeed(state, "a", "zombie"), Stale)
    assert claim(state, new).verdict == "run"
    assert set(client.hgetall(FLEET["HELD"])) - {f"{OTHER}/a".encode()} == {f"{JOB}/a".encode()}
    # and it is under way now
    assert isinstance(state.resume(JOB, "ready", {}), Stale)


def test_two_resumes_of_a_stuck_job_at_once_make_one_attempt(client: redis.Redis, state: State) -> None:
    submit(state)
    long_ago(client)
    start = threading.Barrier(2)

    def resume(_: int) -> list[Dispatch] | Stale:
        start.wait()
        return state.resume(JOB, "ready", {})

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(resume, range(2)))

    assert sorted(isinstance(answer, Stale) for answer in answers) == [False, True]
    assert state.job(JOB)["attempt"] == "2"


def test_steps_that_were_done_and_run_again_are_told_with_the_reason(
    client: redis.Redis, state: State
) -> None:
    submit(state)
    state.cancel(JOB, "enough")

    state.resume(JOB, "ready", {}, lost={"a": "its file was changed"})

    [lost] = events(client, "step.lost")
    assert (lost.step, lost.data) == ("a", {"reason": "its file was changed"})


# --- an ended job holds nothing ---------------------------------------------------------------------------------------


def nothing_is_held(client: redis.Redis, but: Mapping[str, str] | None = None) -> None:
    """Fail unless the job holds nothing of the fleet's and has nothing under way; `but` is what others hold."""
    held = {one.decode(): by.decode() for one, by in client.hgetall(FLEET["HELD"]).items()}
    assert held == (but or {})
    assert not client.sismember(FLEET["ALIVE"], JOB)
    left = ("leases", "active", "queued", "parked", "ready")
    assert [what for what in left if client.exists(f"orch:{{{JOB}}}:{what}")] == []


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel", "abort", "time", "poison", "force"])
@pytest.mark.parametrize("driver", ["ready", "canvas"])
def test_a_job_that_has_ended_holds_nothing_of_the_fleets(
    client: redis.Redis, state: State, driver: str, end: str
) -> None:
    # given a job with a step in every state
    needs: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(("done", "running", "parked", "queued", "lost"), ()),
        "pending": ("running", "queued"),
    }
    timeout_ms = 300 if end == "time" else 900_000
    sent = submit(state, needs, driver, concurrency=5, timeout_ms=timeout_ms)
    run(state, sent["done"])
    suspect = lose(state, sent["lost"])
    claim(state, sent["running"], worker="other:1")
    claim(state, sent["parked"])
    state.release(JOB, "parked", "token-parked", "rate limited", 0.001)
    claim(state, suspect, lease_s=-1, worker="third:1")
    assert len(client.hgetall(FLEET["HELD"])) == 2
    assert set(statuses(client).values()) == {"succeeded", "running", "parked", "queued", "pending"}

    # when it ends in some way
    match end:
        case "succeed":
            pause(0.01)
            succeed(state, "lost")
            outstanding = {step: one for step, one in sent.items() if step == "queued"} | recover(state)
            outstanding |= by_step(succeed(state, "running"))
            while outstanding:
                outstanding |= run(state, outstanding.popitem()[1])
        case "fail":
            fail(state, "running")
            fail(state, "lost")
        case "cancel":
            state.cancel(JOB, "enough")
        case "abort":
            state.abort(JOB, Failure(step=None, kind="budget", message="too dear"))
        case "time":
            pause(0.31)
            recover(state)
        case "poison":
            recover(state)
            succeed(state, "running")
        case "force":
            by_step(state.resume(JOB, driver, {}, force=True))
            assert client.hgetall(FLEET["HELD"]) == {}
            state.cancel(JOB, "enough")

    # then
    assert state.job(JOB)["status"] == {
        "succeed": "succeeded",
        "cancel": "cancelled",
        "force": "cancelled",
    }.get(end, "failed")
    nothing_is_held(client)
    assert client.exists(FLEET["HELD"], FLEET["ALIVE"]) == 0
    # and its events tell the same of each step as its records
    progress = Progress.of(JOB, events(client))
    assert {step.id: step.status for step in progress.steps.values()} == statuses(client)
    assert all(0 < client.ttl(key) <= 100 for key in of_the_job(client))


def test_a_job_that_came_back_from_its_run_folder_is_not_looked_after_until_it_is_resumed(
    client: redis.Redis, state: State
) -> None:
    history, result = lost_job(client, state)
    restore(state, history, {"a": result}, "failed")
    assert lead(state, "one") == Lead(calm=True, jobs=())

    state.resume(JOB, "ready", {})

    assert lead(state, "one") == Lead(calm=True, jobs=(JOB,))


# --- how long a job is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
def test_every_key_of_a_job_that_has_ended_expires(client: redis.Redis, state: State, end: str) -> None:
    sent = submit(state, {"a": (), "b": ("a",)})
    assert {client.ttl(key) for key in of_the_job(client)} == {-1}
    sent |= run(state, sent["a"])
    claim(state, sent["b"])
    {
        "succeed": lambda: succeed(state, "b", None, *with_file(b"x")),
        "fail": lambda: fail(state, "b"),
        "cancel": lambda: state.cancel(JOB, "enough"),
    }[end]()
    state.emit(JOB, "b", Act("llm.response", {"success": True}))

    assert all(0 < client.ttl(key) <= 100 for key in of_the_job(client))


def test_resume_keeps_a_job_from_expiring(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    succeed(state, "a", None, *with_file(b"x"))
    state.cancel(JOB, "enough")

    state.resume(JOB, "ready", {})

    assert {client.ttl(key) for key in of_the_job(client)} == {-1}


# --- a job that is gone stays gone ------------------------------------------------------------------------------------


def test_an_event_of_an_unknown_job_makes_no_key(client: redis.Redis, state: State) -> None:
    state.emit(JOB, "a", Act("llm.response", {"success": True}))

    assert client.dbsize() == 0


def test_nothing_brings_back_a_job_that_was_wiped(client: redis.Redis, state: State) -> None:
    # given a job in full swing
    result, blobs = with_file(b"x")
    sent = submit(state)
    sent |= run(state, sent["a"])
    claim(state, sent["b"])

    # when Redis is wiped and everybody who knew the job goes on
    client.flushall()
    assert claim(state, sent["c"]).verdict == "void"
    assert claim(state, sent["b"]).verdict == "void"
    assert renew(state, "b", "token-b") is False
    state.emit(JOB, "b", Act("cache.miss", {"key": "k"}), Act("llm.request", {"messages": 2}))
    assert isinstance(state.release(JOB, "b", "token-b", "shut down"), Stale)
    assert isinstance(state.release(JOB, "b", "token-b", "rate limited", 60), Stale)
    assert state.recover(JOB, calm=True, grace_s=-1) == []
    assert state.recover(JOB, calm=False, grace_s=-1) == []
    assert state.stops() == b""
    assert isinstance(succeed(state, "b", None, result, blobs), Stale)
    assert isinstance(fail(state, "b"), Stale)
    assert state.cancel(JOB, "enough") is False
    assert state.abort(JOB, Failure(step=None, kind="timeout", message="too long")) is False
    assert isinstance(state.resume(JOB, "ready", {}), Stale)
    assert isinstance(state.resume(JOB, "canvas", {}, force=True), Stale)

    # then nothing of it is there
    assert client.dbsize() == 0


# --- a reply that is lost on its way ----------------------------------------------------------------------------------


class LossyServer(socketserver.ThreadingUnixStreamServer):
    """Passes Redis's protocol on; when told so, cuts the connection instead of passing on a script's reply."""

    daemon_threads = True

    def __init__(self, path: Path, target: str) -> None:
        self.target = target
        self.lose_next = threading.Event()
        self.lost = threading.Event()
        super().__init__(str(path), _Passing)


class _Passing(socketserver.BaseRequestHandler):
    server: LossyServer

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as redis_side:
            redis_side.connect(self.server.target)
            script = False
            while True:
                for side in select.select([self.request, redis_side], [], [])[0]:
                    data = side.recv(1 << 20)
                    if not data:
                        return
                    if side is self.request:
                        script = script or b"EVALSHA" in data
                        redis_side.sendall(data)
                        continue
                    if script and self.server.lose_next.is_set() and not data.startswith(b"-NOSCRIPT"):
                        self.server.lose_next.clear()
                        self.server.lost.set()
                        return
                    script = False
                    self.request.sendall(data)


@pytest.fixture
def lossy(client: redis.Redis, redis_url: str) -> Iterator[tuple[State, LossyServer]]:
    """A state whose connection can be made to lose one reply."""
    with tempfile.TemporaryDirectory(prefix="orch-lossy-", dir="/tmp") as folder:
        path = Path(folder) / "lossy.sock"
        with LossyServer(path, redis_url.removeprefix("unix://")) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            through = connect(f"unix://{path}")
            yield State(through), server
            through.close()
            server.shutdown()
            thread.join()


def losing_one_reply(server: LossyServer, act: Callable[[], Any]) -> Any:
    server.lose_next.set()
    answer = act()
    assert server.lost.is_set()
    server.lost.clear()
    return answer


def test_a_lost_reply_to_submit_costs_neither_the_job_nor_its_dispatches(
    lossy: tuple[State, LossyServer], client: redis.Redis
) -> None:
    state, server = lossy

    sent = losing_one_reply(server, lambda: submit(state))

    assert set(sent) == {"a"}
    assert len(events(client, "job.submitted")) == 1


def test_a_lost_reply_to_resume_costs_no_dispatches(
    lossy: tuple[State, LossyServer], client: redis.Redis
) -> None:
    state, server = lossy
    submit(state)
    state.cancel(JOB, "enough")

    sent = losing_one_reply(server, lambda: state.resume(JOB, "ready", {}))

    assert set(by_step(sent)) == {"a"}
    assert len(events(client, "job.resumed")) == 1


def test_lost_replies_to_claim_and_commit_cost_nothing(
    lossy: tuple[State, LossyServer], client: redis.Redis
) -> None:
    state, server = lossy
    sent = submit(state)

    assert losing_one_reply(server, lambda: claim(state, sent["a"])).verdict == "run"
    ready = losing_one_reply(server, lambda: succeed(state, "a"))

    assert set(by_step(ready)) == {"b", "c"}
    assert steps_with(client, "step.started") == ["a"]
    assert steps_with(client, "step.succeeded") == ["a"]


def test_a_lost_reply_to_cancel_still_says_that_the_job_was_cancelled(
    lossy: tuple[State, LossyServer], client: redis.Redis
) -> None:
    state, server = lossy
    submit(state)

    assert losing_one_reply(server, lambda: state.cancel(JOB, "enough")) is True
    assert len(events(client, "job.cancelled")) == 1


@pytest.mark.parametrize("wait_s", [0, 0.001])
def test_a_lost_reply_to_release_loses_no_step(
    lossy: tuple[State, LossyServer], client: redis.Redis, wait_s: float
) -> None:
    # given a worker that gives a step back and does not hear that it did: it sends nothing, or what it was told
    state, server = lossy
    claim(state, submit(state, {"a": ()})["a"])
    answer = losing_one_reply(server, lambda: state.release(JOB, "a", "token-a", "shut down", wait_s))
    pause(0.01)

    # when the leader looks after the job
    sent = [] if isinstance(answer, Stale) else answer
    for _ in range(2):
        sent += recover(state, grace_s=-1).values()
        pause(0.002)

    # then the step runs, and was given back once
    assert claim(state, sent[-1]).verdict == "run"
    assert succeed(state, "a") == []
    assert state.job(JOB)["status"] == "succeeded"
    assert len(events(client, "step.retrying")) == 1


def test_a_lost_reply_to_recover_loses_no_step(lossy: tuple[State, LossyServer], client: redis.Redis) -> None:
    state, server = lossy
    claim(state, submit(state, {"a": ()})["a"], lease_s=-1)

    # given a leader that recovers a step and does not hear what it is to send
    sent = list(losing_one_reply(server, lambda: recover(state)).values())

    # when it looks again, once to notice and once after the grace
    for _ in range(2):
        sent += recover(state, grace_s=-1).values()
        pause(0.002)

    # then the step runs, and was lost to a worker once
    assert claim(state, sent[-1]).verdict == "run"
    assert [event.get("losses") for event in events(client, "step.lost") if event.get("losses")] == [1]


def test_lost_replies_to_renew_and_lead_change_nothing(
    lossy: tuple[State, LossyServer], client: redis.Redis
) -> None:
    state, server = lossy
    claim(state, submit(state)["a"])

    assert losing_one_reply(server, lambda: renew(state, "a", "token-a")) is True
    assert losing_one_reply(server, lambda: lead(state, "one")) == Lead(calm=True, jobs=(JOB,))
    assert lead(state, "two") is None
