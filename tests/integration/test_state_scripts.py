"""What each Lua script guarantees, tried on a real Redis: late, doubled, lost and stale messages included."""

from __future__ import annotations

import hashlib
import json
import select
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.connection import connect
from orchestrator.events import Event
from orchestrator.lease import Heartbeat
from orchestrator.names import JOBS_INDEX, JobKeys
from orchestrator.plan import Plan, PlannedStep
from orchestrator.progress import Progress
from orchestrator.records import Artifact, Failure, OutputFile, StepResult
from orchestrator.state import Claim, Dispatch, Stale, State
from orchestrator.stream import read_all

JOB = "job_0123456789ab"
NOTHING = StepResult()
DIAMOND: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
PAIR: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",)}
SIDE_BY_SIDE: dict[str, tuple[str, ...]] = {"a": (), "b": (), "c": ("a", "b")}


def plan_of(needs: Mapping[str, tuple[str, ...]]) -> Plan:
    return Plan.of(PlannedStep(step, "prompt", those) for step, those in needs.items())


def job_fields(
    needs: Mapping[str, tuple[str, ...]], driver: str = "ready", concurrency: int = 4
) -> dict[str, Any]:
    steps = json.dumps([[step, "prompt", list(those)] for step, those in needs.items()])
    return {
        "spec": "{}",
        "source": "project: p",
        "plan": steps,
        "driver": driver,
        "concurrency": concurrency,
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
) -> dict[str, Dispatch]:
    """Submit a job; returns what was sent, by step."""
    fields = job_fields(needs, driver, concurrency)
    return by_step(state.submit(job, fields, plan_of(needs).dependents, told(needs)))


def by_step(sent: list[Dispatch] | Stale) -> dict[str, Dispatch]:
    assert not isinstance(sent, Stale), sent
    return {one.step: one for one in sent}


def claim(state: State, one: Dispatch, token: str | None = None) -> Claim:
    return state.claim(JOB, one.step, one.ticket, token or f"token-{one.step}", 30, "a worker")


def succeed(
    state: State,
    step: str,
    token: str | None = None,
    result: StepResult = NOTHING,
    blobs: Mapping[str, bytes] | None = None,
) -> list[Dispatch] | Stale:
    return state.succeed(JOB, step, token or f"token-{step}", result, blobs or {}, {"duration_s": 0.5})


def fail(state: State, step: str, token: str | None = None) -> list[Dispatch] | Stale:
    failure = Failure(step=step, kind="qa", message=f"{step} did not work")
    return state.fail(JOB, step, token or f"token-{step}", failure, {"duration_s": 0.5})


def run(state: State, one: Dispatch) -> dict[str, Dispatch]:
    """Claim a step and commit its success."""
    assert claim(state, one).verdict == "run"
    return by_step(succeed(state, one.step))


def with_file(content: bytes, path: str = "p/main.py") -> tuple[StepResult, dict[str, bytes]]:
    sha256 = hashlib.sha256(content).hexdigest()
    file = OutputFile(path=path, sha256=sha256, size_bytes=len(content))
    return StepResult(files=(file,)), {sha256: content}


def events(client: redis.Redis, kind: str | None = None) -> list[Event]:
    every = read_all(client, JOB)
    return [event for event in every if kind in (None, event.type)]


def steps_with(client: redis.Redis, kind: str) -> list[str | None]:
    return [event.step for event in events(client, kind)]


def statuses(client: redis.Redis) -> dict[str, str]:
    records: Any = client.hgetall(JobKeys(JOB).steps)
    return {step.decode(): json.loads(raw)["status"] for step, raw in records.items()}


def everything(client: redis.Redis) -> dict[bytes, bytes | None]:
    """All that Redis holds: equal before and after when nothing was changed."""
    return {key: client.dump(key) for key in client.scan_iter()}


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
    sent = submit(state, {"a": (), "b": (), "c": ("a",), "d": ()}, concurrency=2)
    claim(state, sent["a"])
    claim(state, sent["b"])
    succeed(state, "a", None, result, blobs)

    # then all but the index of jobs are its own
    keys = {key.decode() for key in client.scan_iter()} - {JOBS_INDEX}
    assert keys == {
        f"orch:{{{JOB}}}{suffix}"
        for suffix in (
            "",
            ":steps",
            ":next",
            ":results",
            ":files",
            ":blobs",
            ":leases",
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


@pytest.mark.parametrize("ticket", [0, 2, 99])
def test_a_claim_with_another_ticket_than_the_current_is_void(
    client: redis.Redis, state: State, ticket: int
) -> None:
    sent = submit(state)
    assert sent["a"].ticket == 1
    before = everything(client)

    assert claim(state, Dispatch("a", "prompt", ticket)) == Claim("void", "old ticket")
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
    assert state.renew(JOB, "a", "zombie", 30) is False

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
    assert state.renew(JOB, "b", "token-b", 30)

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

    assert {one.step: one.ticket for one in again.values()} == {"b": 2}
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


def test_a_running_step_learns_within_seconds_that_its_job_was_cancelled(
    client: redis.Redis, state: State
) -> None:
    # given a step that runs under the default lease
    claim(state, submit(state)["a"], "mine")
    with Heartbeat(state, lease_s=15).holding(JOB, "a", "mine") as lost:
        # when its job is cancelled
        state.cancel(JOB, "enough")

        # then it is told ("running calls within a second", DESIGN section 4; here with room for a slow machine)
        assert lost.wait(3)


# --- renew ------------------------------------------------------------------------------------------------------------


def test_a_lease_is_prolonged_also_after_it_ran_out(client: redis.Redis, state: State) -> None:
    leases = f"orch:{{{JOB}}}:leases"
    sent = submit(state)
    state.claim(JOB, "a", sent["a"].ticket, "mine", -1, "a worker")
    overdue = client.zscore(leases, "a")

    assert state.renew(JOB, "a", "mine", 30) is True
    prolonged = client.zscore(leases, "a")
    assert overdue
    assert prolonged
    assert prolonged > overdue + 30_000


def test_a_lease_that_is_not_the_callers_is_not_prolonged(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    before = everything(client)

    assert state.renew(JOB, "a", "another's", 30) is False
    assert state.renew(JOB, "b", "token-b", 30) is False
    assert state.renew(JOB, "unknown", "mine", 30) is False
    assert everything(client) == before


def test_a_step_that_is_done_has_no_lease(client: redis.Redis, state: State) -> None:
    run(state, submit(state)["a"])

    assert state.renew(JOB, "a", "token-a", 30) is False
    assert client.exists(f"orch:{{{JOB}}}:leases") == 0


# --- restore ----------------------------------------------------------------------------------------------------------


def restore(state: State, history: list[Event], kept: Mapping[str, StepResult], status: str) -> bool:
    records = {
        step: {"kind": "prompt", "status": "succeeded", "ticket": 0, "runs": 1, "unmet": 0} for step in kept
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


# --- how long a job is kept -------------------------------------------------------------------------------------------


def job_keys(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter() if key != JOBS_INDEX.encode()]


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
def test_every_key_of_a_job_that_has_ended_expires(client: redis.Redis, state: State, end: str) -> None:
    sent = submit(state, {"a": (), "b": ("a",)})
    assert {client.ttl(key) for key in job_keys(client)} == {-1}
    sent |= run(state, sent["a"])
    claim(state, sent["b"])
    {
        "succeed": lambda: succeed(state, "b", None, *with_file(b"x")),
        "fail": lambda: fail(state, "b"),
        "cancel": lambda: state.cancel(JOB, "enough"),
    }[end]()
    state.emit(JOB, "llm.response", "b", {"success": True})

    assert all(0 < client.ttl(key) <= 100 for key in job_keys(client))


def test_resume_keeps_a_job_from_expiring(client: redis.Redis, state: State) -> None:
    sent = submit(state)
    claim(state, sent["a"])
    succeed(state, "a", None, *with_file(b"x"))
    state.cancel(JOB, "enough")

    state.resume(JOB, "ready", {})

    assert {client.ttl(key) for key in job_keys(client)} == {-1}


# --- a job that is gone stays gone ------------------------------------------------------------------------------------


def test_an_event_of_an_unknown_job_makes_no_key(client: redis.Redis, state: State) -> None:
    state.emit(JOB, "llm.response", "a", {"success": True})

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
    assert state.renew(JOB, "b", "token-b", 30) is False
    state.emit(JOB, "llm.request", "b", {"messages": 2})
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
