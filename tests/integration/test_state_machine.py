"""Random workers, canvases and users on one job: whatever they do, in whatever order, its state stays consistent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.events import Event
from orchestrator.names import JobKeys
from orchestrator.plan import Plan, PlannedStep
from orchestrator.progress import Progress
from orchestrator.records import Failure, StepResult
from orchestrator.state import Dispatch, Stale, State
from orchestrator.stream import read

JOB = "job_0123456789ab"
DRIVERS = st.sampled_from(["ready", "canvas"])
CHOICE = st.integers(min_value=0)


@dataclass
class Held:
    """A token that a claim gave, and what its commit answered."""

    step: str
    token: str
    committed: list[Dispatch] | None = None


@dataclass
class Model:
    """The job as it should be, kept in Python."""

    needs: dict[str, tuple[str, ...]]
    status: str = "queued"
    failed: bool = False
    done: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)  # failed in this attempt
    ticket: dict[str, int] = field(default_factory=dict)
    holder: dict[str, Held] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return self.status in ("queued", "running") and not self.failed

    def may_run(self, one: Dispatch) -> bool:
        """Whether a new token may have the step of this message."""
        idle = one.step not in self.done | self.ended | set(self.holder)
        met = self.done.issuperset(self.needs[one.step])
        return self.alive and idle and met and self.ticket.get(one.step) == one.ticket

    def new_attempt(self) -> None:
        self.status, self.failed = "queued", False
        self.ended.clear()
        self.holder.clear()
        self.ticket.clear()
        if self.done == set(self.needs):
            self.status = "succeeded"

    def settle(self) -> None:
        """Work out whether the job has ended."""
        if self.failed and not self.holder:
            self.status = "failed"
        elif self.done == set(self.needs):
            self.status = "succeeded"


class OneJob(RuleBasedStateMachine):
    """Everybody who can touch a job, and what must hold after each touch."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.client = client
        self.state = State(client)
        self.tokens = map("token-{}".format, count())
        self.messages: list[Dispatch] = []
        self.held: list[Held] = []
        self.events: list[Event] = []

    # --- beginnings ---------------------------------------------------------------------------------------------------

    @initialize(
        shape=st.lists(st.sets(st.integers(0, 5), max_size=3), min_size=1, max_size=6),
        driver=DRIVERS,
        concurrency=st.integers(1, 3),
    )
    def submit(self, shape: list[set[int]], driver: str, concurrency: int) -> None:
        self.client.flushall()
        needs = {
            f"s{number}": tuple(f"s{need}" for need in sorted(those) if need < number)
            for number, those in enumerate(shape)
        }
        plan = Plan.of(PlannedStep(step, "prompt", those) for step, those in needs.items())
        self.model, self.driver, self.concurrency = Model(needs), driver, concurrency
        fields = {
            "spec": "{}",
            "source": "",
            "plan": json.dumps([[step, "prompt", list(those)] for step, those in needs.items()]),
            "driver": driver,
            "concurrency": concurrency,
            "ttl_s": 100,
        }
        about = {"steps": [{"id": step, "kind": "prompt", "needs": those} for step, those in needs.items()]}
        self.sent(self.state.submit(JOB, fields, plan.dependents, about))

    def sent(self, dispatches: list[Dispatch]) -> None:
        self.messages += dispatches
        self.model.ticket |= {one.step: one.ticket for one in dispatches}

    # --- workers ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.messages)
    @rule(which=CHOICE)
    def take_any_message(self, which: int) -> None:
        """Take one that was ever sent, so that messages come early, late and twice."""
        self.claim(self.messages[which % len(self.messages)])

    @precondition(lambda self: any(map(self.model.may_run, self.messages)))
    @rule(which=CHOICE)
    def take_a_good_message(self, which: int) -> None:
        good = [one for one in self.messages if self.model.may_run(one)]
        self.claim(good[which % len(good)])

    def claim(self, one: Dispatch) -> None:
        held, may_run = Held(one.step, next(self.tokens)), self.model.may_run(one)

        verdict = self.state.claim(JOB, one.step, one.ticket, held.token, 30, "a worker").verdict

        assert verdict == ("done" if one.step in self.model.done else "run" if may_run else "void")
        if may_run:
            self.model.holder[one.step] = held
            self.model.status = "running"
            self.held.append(held)

    @precondition(lambda self: self.model.holder)
    @rule(which=CHOICE)
    def repeat_a_claim(self, which: int) -> None:
        held = self.pick(list(self.model.holder.values()), which)
        ticket = self.model.ticket[held.step]

        verdict = self.state.claim(JOB, held.step, ticket, held.token, 30, "a worker").verdict

        assert verdict == ("run" if self.model.alive else "void")

    @precondition(lambda self: self.model.holder)
    @rule(which=CHOICE, good=st.sampled_from([True, True, True, False]))
    def commit(self, which: int, good: bool) -> None:
        held = self.pick(list(self.model.holder.values()), which)

        answer = self.write(held, good=good)

        assert not isinstance(answer, Stale)
        held.committed = answer
        del self.model.holder[held.step]
        (self.model.done if good else self.model.ended).add(held.step)
        self.model.failed |= not good
        if self.driver == "canvas" or not good:
            assert answer == []
        self.sent(answer)
        self.model.settle()

    @precondition(lambda self: self.held)
    @rule(which=CHOICE, good=st.booleans())
    def commit_late_or_twice(self, which: int, good: bool) -> None:
        """Commit with a token that is not the current one, or that has committed."""
        held = self.pick(self.held, which)
        if self.model.holder.get(held.step) is held:
            return
        before = self.keys()

        answer = self.write(held, good=good)

        assert isinstance(answer, Stale) or answer == held.committed
        assert self.keys() == before

    @precondition(lambda self: self.held)
    @rule(which=CHOICE)
    def renew(self, which: int) -> None:
        held = self.pick(self.held, which)

        assert self.state.renew(JOB, held.step, held.token, 30) is (self.model.holder.get(held.step) is held)

    def write(self, held: Held, *, good: bool) -> list[Dispatch] | Stale:
        if good:
            return self.state.succeed(JOB, held.step, held.token, StepResult(), {}, {"duration_s": 0.5})
        failure = Failure(step=held.step, kind="qa", message="it did not work")
        return self.state.fail(JOB, held.step, held.token, failure, {"duration_s": 0.5})

    # --- users --------------------------------------------------------------------------------------------------------

    @rule(abort=st.booleans(), sure=st.sampled_from([True, False, False, False]))
    def stop(self, abort: bool, sure: bool) -> None:
        if not sure:
            return
        going_on = self.model.status in ("queued", "running")
        failure = Failure(step=None, kind="timeout", message="too long")

        stopped = self.state.abort(JOB, failure) if abort else self.state.cancel(JOB, "enough")

        assert stopped is going_on
        if going_on:
            self.model.status = "failed" if abort else "cancelled"
            self.model.holder.clear()

    @precondition(lambda self: self.model.status in ("failed", "cancelled"))
    @rule(driver=DRIVERS)
    def resume(self, driver: str) -> None:
        self.begin_again(driver, force=False)

    @precondition(lambda self: self.model.status not in ("failed", "cancelled"))
    @rule()
    def resume_what_goes_well(self) -> None:
        assert self.state.resume(JOB, "ready", {}) == Stale(self.model.status)

    @rule(driver=DRIVERS, sure=st.sampled_from([True, False, False, False]))
    def resume_by_force(self, driver: str, sure: bool) -> None:
        if sure:
            self.begin_again(driver, force=True)

    def begin_again(self, driver: str, *, force: bool) -> None:
        sent = self.state.resume(JOB, driver, {}, force=force)

        assert not isinstance(sent, Stale)
        self.driver = driver
        self.model.new_attempt()
        self.sent(sent)
        if driver == "canvas":
            assert {one.step for one in sent} == set(self.model.needs) - self.model.done

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def no_step_is_done_twice_or_before_its_needs(self) -> None:
        events = self.see()
        ended = Counter(event.step for event in events if event.type == "step.succeeded")
        assert ended == Counter(self.model.done)
        done: set[str | None] = set()
        for event in events:
            if event.type == "step.started":
                assert done.issuperset(self.model.needs[event.step or ""])
            elif event.type == "step.succeeded":
                done.add(event.step)

    @invariant()
    def the_job_is_as_its_steps_are(self) -> None:
        job = self.state.job(JOB)
        assert job["status"] == self.model.status
        assert self.state.succeeded(JOB) == self.model.done
        leased = {step.decode() for step in self.client.zrange(f"{JobKeys(JOB).job}:leases", 0, -1)}
        assert leased == set(self.model.holder)
        assert ("finished_ms" in job) == (job["status"] not in ("queued", "running"))
        assert (self.client.ttl(JobKeys(JOB).events) > 0) == ("finished_ms" in job)

    @invariant()
    def no_more_are_outstanding_than_the_job_may_have(self) -> None:
        active = {step.decode() for step in self.client.smembers(f"{JobKeys(JOB).job}:active")}
        if self.driver == "canvas" or self.model.status not in ("queued", "running"):
            assert active == set()
            return
        assert len(active) <= self.concurrency
        assert active == {step for step, status in self.records().items() if status in ("queued", "running")}

    @invariant()
    def nothing_that_could_run_is_forgotten(self) -> None:
        if not self.model.alive:
            return
        could = {
            step
            for step, needs in self.model.needs.items()
            if step not in self.model.done and self.model.done.issuperset(needs)
        }
        waiting = {step.decode() for step in self.client.lrange(f"{JobKeys(JOB).job}:ready", 0, -1)}
        sent = {one.step for one in self.messages if self.model.may_run(one)}
        assert could == waiting | sent | set(self.model.holder)
        assert could  # else the job would be stuck

    @invariant()
    def events_and_records_tell_the_same(self) -> None:
        progress = Progress.of(JOB, self.see())
        assert progress.status == self.model.status
        assert {step.id: step.status for step in progress.steps.values()} == self.records()
        assert str(progress.attempt) == self.state.job(JOB)["attempt"]
        assert set(progress.completed()) == self.model.done

    def see(self) -> list[Event]:
        """Every event until now."""
        after = self.events[-1].id if self.events else "0"
        self.events += read(self.client, JOB, after)
        return self.events

    def records(self) -> dict[str, str]:
        records: Any = self.client.hgetall(JobKeys(JOB).steps)
        return {step.decode(): json.loads(raw)["status"] for step, raw in records.items()}

    def keys(self) -> dict[bytes, bytes | None]:
        return {key: self.client.dump(key) for key in self.client.scan_iter()}

    @staticmethod
    def pick(those: list[Held], which: int) -> Held:
        return those[which % len(those)]


def test_a_job_stays_consistent_whatever_its_workers_and_users_do(client: redis.Redis) -> None:
    machine: Callable[[], RuleBasedStateMachine] = lambda: OneJob(client)  # noqa: E731
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
