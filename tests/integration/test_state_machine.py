"""Random workers, leaders, canvases and users on one job: whatever they do and lose, its state stays consistent."""

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

from orchestrator.canvas import choose_driver, part
from orchestrator.events import Event
from orchestrator.names import FLEET, JobKeys
from orchestrator.plan import Plan, PlannedStep
from orchestrator.progress import Progress
from orchestrator.records import Failure, StepResult
from orchestrator.state import LOSSES_UNTIL_ALONE, Dispatch, Lead, Stale, State
from orchestrator.stream import read
from tests.contents import everything

JOB = "job_0123456789ab"
DRIVERS = st.sampled_from(["ready", "canvas"])
CHOICE = st.integers(min_value=0)
WORKERS = ["host:1", "host:2"]
NEVER_S = 10_000


@dataclass
class Held:
    """A token that a claim gave, and what its commit answered."""

    step: str
    token: str
    worker: str
    alone: bool
    committed: list[Dispatch] | None = None
    expired: bool = False
    beside: bool = False  # something else of its worker was lost meanwhile


@dataclass
class Model:
    """The job as it should be, kept in Python."""

    needs: dict[str, tuple[str, ...]]
    status: str = "queued"
    failed: bool = False
    canvas: bool = False
    done: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)  # failed in this attempt
    ticket: dict[str, int] = field(default_factory=dict)
    queued: dict[str, bool] = field(default_factory=dict)  # step → whether its message was noticed to be gone
    holder: dict[str, Held] = field(default_factory=dict)
    parked: dict[str, bool] = field(default_factory=dict)  # step → whether it is due
    retry: dict[str, str] = field(default_factory=dict)  # what the last run left for the next
    losses: Counter[str] = field(default_factory=Counter)

    @property
    def unfinished(self) -> bool:
        return self.status in ("queued", "running")

    @property
    def alive(self) -> bool:
        return self.unfinished and not self.failed

    @property
    def stuck(self) -> bool:
        """Whether only recovery, or a resume, will bring it on; its messages are gone, as the queue here is empty."""
        runs = any(not held.expired for held in self.holder.values())
        return self.unfinished and not runs and not self.parked

    @property
    def could_run(self) -> set[str]:
        """Steps whose needs are met and which are not done."""
        return {
            step
            for step, needs in self.needs.items()
            if step not in self.done and self.done.issuperset(needs)
        }

    def may_run(self, one: Dispatch) -> bool:
        """Whether a new token may have the step of this message."""
        return self.alive and one.step in self.queued and self.ticket.get(one.step) == one.ticket

    def suspect(self, step: str) -> bool:
        """Whether it would run alone."""
        return self.losses[step] >= LOSSES_UNTIL_ALONE

    @property
    def one_runs_alone(self) -> bool:
        return any(held.alone for held in self.holder.values())

    def new_attempt(self, *, canvas: bool) -> None:
        self.status, self.failed, self.canvas = "queued", False, canvas
        for what in (self.ended, self.holder, self.ticket, self.queued, self.parked, self.retry, self.losses):
            what.clear()
        if self.done == set(self.needs):
            self.status = "succeeded"

    def over(self, status: str) -> None:
        self.status = status
        for what in (self.holder, self.queued, self.parked):
            what.clear()

    def settle(self) -> None:
        """Work out whether the job has ended."""
        if not self.unfinished:
            return
        if self.failed and not self.holder:
            self.over("failed")
        elif self.done == set(self.needs):
            self.over("succeeded")


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
        self.leader: str | None = None

    # --- beginnings ---------------------------------------------------------------------------------------------------

    @initialize(
        shape=st.lists(st.sets(st.integers(0, 5), max_size=2), min_size=2, max_size=6),
        driver=DRIVERS,
        concurrency=st.integers(1, 3),
        deaths=st.sampled_from([0, 0, LOSSES_UNTIL_ALONE]),
    )
    def submit(self, shape: list[set[int]], driver: str, concurrency: int, deaths: int) -> None:
        self.client.flushall()
        needs = {
            f"s{number}": tuple(f"s{need}" for need in sorted(those) if need < number)
            for number, those in enumerate(shape)
        }
        plan = Plan.of(PlannedStep(step, "prompt", those) for step, those in needs.items())
        self.model, self.plan, self.concurrency = Model(needs), plan, concurrency
        fields = {
            "spec": "{}",
            "source": "",
            "plan": json.dumps([[step, "prompt", list(those)] for step, those in needs.items()]),
            "driver": driver,
            "concurrency": concurrency,
            "timeout_ms": NEVER_S * 1000,
            "ttl_s": 100,
        }
        about = {"steps": [{"id": step, "kind": "prompt", "needs": those} for step, those in needs.items()]}
        self.begun(driver, self.state.submit(JOB, fields, plan.dependents, about))
        for step in sorted(self.model.queued) * deaths:  # many a step is suspect from the start
            for one in [one for one in self.messages if one.step == step and self.model.may_run(one)]:
                self.die_with(one)

    def begun(self, driver: str, sent: list[Dispatch]) -> None:
        """Take note of an attempt that has just begun."""
        todo = [step for step in self.model.needs if step not in self.model.done]
        fits = (
            driver == "ready" or not todo or choose_driver(part(self.plan, todo), self.concurrency) == driver
        )
        self.most = self.concurrency if fits else len(todo)  # a canvas is only chosen where it fits
        self.model.new_attempt(canvas=driver == "canvas")
        self.messages += sent
        self.model.ticket |= {one.step: one.ticket for one in sent}
        if self.model.canvas:
            assert {one.step for one in sent} == set(todo)
            if self.model.alive:
                self.model.queued |= dict.fromkeys(self.model.could_run, False)
        else:
            self.model.queued |= {one.step: False for one in sent}

    def sent(self, answer: list[Dispatch]) -> None:
        """Take note of what a commit, a release or a leader has to send."""
        for one in answer:
            assert one.step not in self.model.queued
            assert one.ticket > self.model.ticket.get(one.step, 0)
        self.messages += answer
        self.model.ticket |= {one.step: one.ticket for one in answer}
        self.model.queued |= {one.step: False for one in answer}

    # --- workers ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.messages)
    @rule(which=CHOICE)
    def take_any_message(self, which: int) -> None:
        """Take one that was ever sent, so that messages come early, late and twice."""
        self.claim(self.messages[which % len(self.messages)], which)

    @precondition(lambda self: any(map(self.model.may_run, self.messages)))
    @rule(which=CHOICE)
    def take_a_good_message(self, which: int) -> None:
        good = [one for one in self.messages if self.model.may_run(one)]
        self.claim(good[which % len(good)], which)

    def claim(self, one: Dispatch, which: int) -> None:
        may_run, suspect = self.model.may_run(one), self.model.suspect(one.step)
        held = Held(one.step, next(self.tokens), WORKERS[which % 4 == 0], alone=suspect)

        verdict = self.state.claim(JOB, one.step, one.ticket, held.token, NEVER_S, held.worker)

        if one.step in self.model.done:
            assert verdict.verdict == "done"
        elif not may_run:
            assert verdict.verdict == "void"
        elif suspect and self.model.one_runs_alone:
            assert verdict.reason == "another step runs alone"
            del self.model.queued[one.step]
            self.model.parked[one.step] = False
            self.model.canvas = False
        else:
            assert (verdict.verdict, verdict.retry) == (
                "alone" if suspect else "run",
                self.model.retry.get(one.step, ""),
            )
            del self.model.queued[one.step]
            self.model.holder[one.step] = held
            self.model.status = "running"
            self.held.append(held)

    @precondition(lambda self: self.model.holder)
    @rule(which=CHOICE)
    def repeat_a_claim(self, which: int) -> None:
        held = self.pick(list(self.model.holder.values()), which)
        ticket = self.model.ticket[held.step]
        before = self.keys()

        verdict = self.state.claim(JOB, held.step, ticket, held.token, NEVER_S, held.worker).verdict

        assert verdict == (("alone" if held.alone else "run") if self.model.alive else "void")
        assert self.keys() == before

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
        if self.model.canvas or not good:
            assert answer == []
        if self.model.canvas and self.model.alive:
            met = {step for step in self.model.could_run if held.step in self.model.needs[step]}
            self.model.queued |= dict.fromkeys(met, False)
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
        ours = self.model.holder.get(held.step) is held

        assert self.state.renew([(JOB, held.step, held.token)], NEVER_S) == [ours]

        held.expired = held.expired and not ours

    @precondition(lambda self: self.model.holder)
    @rule(which=CHOICE, wait_s=st.sampled_from([0, NEVER_S]), retry=st.sampled_from(["", '{"failed":1}']))
    def give_back(self, which: int, wait_s: float, retry: str) -> None:
        held = self.pick(list(self.model.holder.values()), which)

        answer = self.state.release(JOB, held.step, held.token, "shut down", wait_s, retry)

        assert not isinstance(answer, Stale)
        self.goes_back(held)
        self.model.retry[held.step] = retry
        if wait_s and self.model.alive:
            self.model.parked[held.step] = False
            assert held.step not in {one.step for one in answer}
        if not self.model.alive:
            assert answer == []
        self.sent(answer)
        self.model.settle()

    @precondition(lambda self: self.held)
    @rule(which=CHOICE, wait_s=st.sampled_from([0, NEVER_S]))
    def give_back_late_or_twice(self, which: int, wait_s: float) -> None:
        held = self.pick(self.held, which)
        if self.model.holder.get(held.step) is held:
            return
        before = self.keys()

        assert isinstance(self.state.release(JOB, held.step, held.token, "shut down", wait_s), Stale)
        assert self.keys() == before

    def goes_back(self, held: Held) -> None:
        """Take note that a step has no holder any more, and its job no canvas."""
        del self.model.holder[held.step]
        self.model.canvas = False

    def write(self, held: Held, *, good: bool) -> list[Dispatch] | Stale:
        if good:
            return self.state.succeed(JOB, held.step, held.token, StepResult(), {}, {"duration_s": 0.5})
        failure = Failure(step=held.step, kind="qa", message="it did not work")
        return self.state.fail(JOB, held.step, held.token, failure, {"duration_s": 0.5})

    # --- what dies, and who makes it good -----------------------------------------------------------------------------

    @precondition(lambda self: self.model.holder)
    @rule(which=CHOICE, all_of_them=st.booleans())
    def a_worker_falls_silent(self, which: int, all_of_them: bool) -> None:
        """Let leases of one worker run out: all of them, or one a little before the others."""
        held = self.pick(list(self.model.holder.values()), which)
        self.run_out(
            [
                other
                for other in self.model.holder.values()
                if other is held or (all_of_them and other.worker == held.worker)
            ]
        )

    @precondition(lambda self: any(map(self.model.may_run, self.messages)))
    @rule(which=CHOICE)
    def a_worker_dies_with_what_it_has_just_taken(self, which: int) -> None:
        good = [one for one in self.messages if self.model.may_run(one)]
        self.die_with(good[which % len(good)])

    def die_with(self, one: Dispatch) -> None:
        self.claim(one, 1)
        if held := self.model.holder.get(one.step):
            self.run_out([held])
            self.look_after(calm=True, grace_s=NEVER_S)

    def run_out(self, leases: list[Held]) -> None:
        for held in leases:
            assert self.state.renew([(JOB, held.step, held.token)], -1) == [True]
            held.expired = True

    @precondition(lambda self: self.model.parked)
    @rule()
    def parked_steps_become_due(self) -> None:
        self.client.zadd(f"{JobKeys(JOB).job}:parked", dict.fromkeys(self.model.parked, 1))
        self.model.parked = dict.fromkeys(self.model.parked, True)

    @rule(calm=st.booleans(), grace_s=st.sampled_from([-1, NEVER_S]))
    def recover(self, calm: bool, grace_s: float) -> None:
        self.look_after(calm=calm, grace_s=grace_s)

    @precondition(lambda self: any(held.expired for held in self.model.holder.values()))
    @rule()
    def recover_what_was_lost(self) -> None:
        self.look_after(calm=True, grace_s=NEVER_S)

    def look_after(self, *, calm: bool, grace_s: float) -> None:
        model, before = self.model, self.keys()
        lost = [held for held in model.holder.values() if held.expired and calm]
        gone = [step for step, noticed in model.queued.items() if noticed and grace_s < 0]
        due = [step for step, is_due in model.parked.items() if is_due]
        started = model.unfinished

        answer = self.state.recover(JOB, calm=calm, grace_s=grace_s)

        if not started:
            assert answer == []
            assert self.keys() == before
            return
        poison = self.lose(lost)
        model.queued = {step: True for step in model.queued if step not in gone}
        if lost or gone:
            model.canvas = False
        for step in due:
            del model.parked[step]
        assert not poison & {one.step for one in answer}
        self.sent(answer)
        model.settle()
        if model.alive and not model.canvas:  # no place is left empty
            waiting = self.client.llen(f"{JobKeys(JOB).job}:ready")
            assert not waiting or len(model.queued) + len(model.holder) >= self.concurrency

    def lose(self, lost: list[Held]) -> set[str]:
        """Take note of lost runs; returns the steps that fail by it."""
        company = Counter(held.worker for held in self.model.holder.values())
        poison = {held.step for held in lost if held.alone and not held.beside and company[held.worker] == 1}
        for held in lost:
            self.model.losses[held.step] += 1
            self.goes_back(held)
        for held in self.model.holder.values():
            held.beside |= held.worker in {other.worker for other in lost}
        self.model.ended |= poison
        self.model.failed |= bool(poison)
        return poison

    @rule(worker=st.sampled_from(WORKERS), leaves=st.sampled_from([False, False, True]))
    def tell_of_a_worker(self, worker: str, leaves: bool) -> None:
        lead = self.state.lead(worker, 0 if leaves else 8, NEVER_S, 0)

        if leaves:
            self.leader = None if self.leader == worker else self.leader
            assert lead is None
        else:
            self.leader = self.leader or worker
            jobs = (JOB,) if self.model.unfinished else ()
            assert lead == (Lead(calm=True, jobs=jobs) if self.leader == worker else None)

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
            self.model.over("failed" if abort else "cancelled")

    @precondition(lambda self: self.model.status in ("failed", "cancelled"))
    @rule(driver=DRIVERS)
    def resume(self, driver: str) -> None:
        self.begin_again(driver, force=False)

    @precondition(lambda self: self.model.status not in ("failed", "cancelled"))
    @rule()
    def resume_what_goes_well(self) -> None:
        """Or of which one cannot tell yet, since it has just begun."""
        self.began_at(self.client.time()[0] * 1000 if self.model.stuck else 1)

        assert self.state.resume(JOB, "ready", {}) == Stale(self.model.status)

    @precondition(lambda self: self.model.stuck)
    @rule(driver=DRIVERS, sure=st.sampled_from([True, False]))
    def resume_what_is_stuck(self, driver: str, sure: bool) -> None:
        if sure:
            self.began_at(1)
            self.begin_again(driver, force=False)

    def began_at(self, ms: int) -> None:
        """Have the attempt begun at some time: only a while after that a job is known to be stuck."""
        self.client.hset(JobKeys(JOB).job, "on_its_way_ms", ms)

    @rule(driver=DRIVERS, sure=st.sampled_from([True, False, False, False]))
    def resume_by_force(self, driver: str, sure: bool) -> None:
        if sure:
            self.begin_again(driver, force=True)

    def begin_again(self, driver: str, *, force: bool) -> None:
        sent = self.state.resume(JOB, driver, {}, force=force)

        assert not isinstance(sent, Stale)
        self.begun(driver, sent)

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
        active = self.members("active")
        assert active == set(self.model.queued) | set(self.model.holder)
        assert self.members("queued") == set(self.model.queued)
        assert len(active) <= self.most

    @invariant()
    def what_the_fleet_holds_for_the_job_is_what_its_workers_run(self) -> None:
        held = {one.decode(): by.decode() for one, by in self.client.hgetall(FLEET["HELD"]).items()}
        assert {one: by.split()[0] for one, by in held.items()} == {
            f"{JOB}/{step}": one.worker for step, one in self.model.holder.items()
        }
        alone = {one for one, by in held.items() if by.endswith(" alone")}
        assert alone == {f"{JOB}/{step}" for step, one in self.model.holder.items() if one.alone}
        assert len(alone) <= 1
        assert self.client.smembers(FLEET["ALIVE"]) == ({JOB.encode()} if self.model.unfinished else set())

    @invariant()
    def a_job_that_has_ended_holds_nothing(self) -> None:
        if not self.model.unfinished:
            kept = ("leases", "active", "queued", "parked", "ready")
            assert self.client.exists(*(f"{JobKeys(JOB).job}:{what}" for what in kept)) == 0
            assert self.client.exists(FLEET["HELD"], FLEET["ALIVE"]) == 0

    @invariant()
    def nothing_that_could_run_is_forgotten(self) -> None:
        parked = {step.decode() for step in self.client.zrange(f"{JobKeys(JOB).job}:parked", 0, -1)}
        assert parked == set(self.model.parked)
        if not self.model.alive:
            return
        waiting = [step.decode() for step in self.client.lrange(f"{JobKeys(JOB).job}:ready", 0, -1)]
        places = [*waiting, *self.model.queued, *self.model.holder, *parked]
        assert Counter(places) == Counter(self.model.could_run)  # each in exactly one place
        assert places  # else the job would be stuck
        sent = {one.step for one in self.messages if self.model.may_run(one)}
        assert sent == set(self.model.queued)

    @invariant()
    def events_and_records_tell_the_same(self) -> None:
        progress = Progress.of(JOB, self.see())
        assert progress.status == self.model.status
        told = {step.id: step.status for step in progress.steps.values()}
        for step, status in self.records().items():
            # a parked step has no status of its own: it is pending, or still in the queue when it was never started
            assert told[step] == status or (status == "parked" and told[step] in ("pending", "queued"))
        assert str(progress.attempt) == self.state.job(JOB)["attempt"]
        assert set(progress.completed()) == self.model.done

    def members(self, what: str) -> set[str]:
        return {step.decode() for step in self.client.smembers(f"{JobKeys(JOB).job}:{what}")}

    def see(self) -> list[Event]:
        """Every event until now."""
        after = self.events[-1].id if self.events else "0"
        self.events += read(self.client, JOB, after)
        return self.events

    def records(self) -> dict[str, str]:
        records: Any = self.client.hgetall(JobKeys(JOB).steps)
        return {step.decode(): json.loads(raw)["status"] for step, raw in records.items()}

    def keys(self) -> dict[bytes, Any]:
        return everything(self.client)

    @staticmethod
    def pick(those: list[Held], which: int) -> Held:
        return those[which % len(those)]


def test_a_job_stays_consistent_whatever_its_workers_and_users_do(client: redis.Redis) -> None:
    machine: Callable[[], RuleBasedStateMachine] = lambda: OneJob(client)  # noqa: E731
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
