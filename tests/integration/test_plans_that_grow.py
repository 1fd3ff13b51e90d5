"""A plan that grows while its job runs: added steps are steps like any other, whatever happens to the job meanwhile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from orchestrator.events import Event
from orchestrator.names import JobKeys
from orchestrator.progress import Progress
from orchestrator.records import Failure, StepResult
from orchestrator.state import Dispatch, Growth, NewStep, Stale, State
from orchestrator.stream import read_all

pytestmark = pytest.mark.integration

JOB = "job_0123456789ab"
PIPELINE: list[list[Any]] = [
    ["architect", "architect", []],
    ["builder", "builder", ["architect"]],
    ["docs", "docs", ["architect"]],
    ["qa", "qa", ["builder", "docs"]],
]
FILES = (
    NewStep("builder/a.py", "file"),
    NewStep("builder/b.py", "file", ("builder/a.py",)),
    NewStep("builder/c.py", "file"),
)


@dataclass
class Pipeline:
    """The default pipeline on a real Redis, run by hand."""

    state: State
    client: redis.Redis
    sent: dict[str, Dispatch] = field(default_factory=dict)
    runs: int = 0

    def submit(self, driver: str = "ready", concurrency: int = 10) -> Pipeline:
        fields = {
            "spec": "{}",
            "source": "",
            "plan": json.dumps(PIPELINE),
            "driver": driver,
            "concurrency": concurrency,
            "timeout_ms": 900_000,
            "ttl_s": 100,
        }
        following = {"architect": ["builder", "docs"], "builder": ["qa"], "docs": ["qa"]}
        about = {"steps": [{"id": one[0], "kind": one[1], "needs": one[2]} for one in PIPELINE]}
        return self.take(self.state.submit(JOB, fields, following, about))

    def take(self, sent: list[Dispatch] | Stale) -> Pipeline:
        assert not isinstance(sent, Stale), sent
        self.sent |= {one.step: one for one in sent}
        return self

    def claim(self, step: str, lease_s: float = 30) -> str:
        self.runs += 1
        token = f"{step} {self.runs}"
        one = self.sent.pop(step)
        assert self.state.claim(JOB, step, one.ticket, token, lease_s, "worker:1").verdict == "run"
        return token

    def run(self, *steps: str, adds: Sequence[NewStep] = ()) -> Pipeline:
        for step in steps:
            token = self.claim(step)
            growth = Growth(tuple(adds))
            self.take(self.state.succeed(JOB, step, token, StepResult(), {}, {"duration_s": 1}, growth))
        return self

    def expand(self, step: str, adds: Sequence[NewStep] = FILES) -> Pipeline:
        token, result = self.claim(step), StepResult(data={"files": len(adds)})
        return self.take(
            self.state.expand(JOB, step, token, Growth(tuple(adds)), result, {}, {"duration_s": 1})
        )

    def fail(self, step: str) -> Pipeline:
        failure = Failure(step=step, kind="qa", message="no")
        return self.take(self.state.fail(JOB, step, self.claim(step), failure, {}))

    def resume(self) -> Pipeline:
        self.sent.clear()
        return self.take(self.state.resume(JOB, "ready", {}))

    @property
    def progress(self) -> Progress:
        return Progress.of(JOB, self.events)

    @property
    def events(self) -> list[Event]:
        return list(read_all(self.client, JOB))

    def types(self, step: str) -> list[str]:
        return [event.type for event in self.events if event.step == step]


@pytest.fixture(params=["ready", "canvas"])
def grown(request: pytest.FixtureRequest, state: State, client: redis.Redis) -> Pipeline:
    """A pipeline whose builder has made way for a step for each of three files."""
    pipeline = Pipeline(state, client).submit(request.param).run("architect")
    return pipeline.expand("builder")


def test_steps_that_were_added_are_sent_when_their_needs_are_met(grown: Pipeline) -> None:
    assert {"builder/a.py", "builder/c.py"} <= set(grown.sent)
    assert "builder/b.py" not in grown.sent

    grown.run("builder/a.py")

    assert "builder/b.py" in grown.sent


def test_a_step_that_made_way_is_done_with_the_last_of_them_and_runs_once(grown: Pipeline) -> None:
    grown.run("docs", "builder/a.py", "builder/b.py")
    assert grown.progress.steps["builder"].status == "running"
    assert grown.progress.steps["qa"].status == "pending"

    grown.run("builder/c.py")

    assert grown.types("builder") == ["step.queued", "step.started", "plan.expanded", "step.succeeded"]
    assert grown.state.result(JOB, "builder") == StepResult(data={"files": 3})
    grown.run("qa")
    assert grown.progress.status == "succeeded"
    assert grown.progress.completed() == [*(one[0] for one in PIPELINE), *(one.id for one in FILES)]


def test_the_plan_tells_of_the_growth_once(grown: Pipeline) -> None:
    [event] = [event for event in grown.events if event.type == "plan.expanded"]

    assert [step["id"] for step in event.get("steps")] == [one.id for one in FILES]
    assert set(grown.state.plan(JOB).by_id) == {one[0] for one in PIPELINE} | {one.id for one in FILES}


def test_nobody_but_the_holder_can_make_a_step_give_way(state: State, client: redis.Redis) -> None:
    pipeline = Pipeline(state, client).submit().run("architect")
    pipeline.claim("builder")

    late = state.expand(JOB, "builder", "stale", Growth(FILES), StepResult(), {}, {})

    assert isinstance(late, Stale)
    assert set(state.plan(JOB).by_id) == {one[0] for one in PIPELINE}


def test_a_repeated_expansion_changes_nothing(state: State, client: redis.Redis) -> None:
    # given a Redis that lost the reply
    pipeline = Pipeline(state, client).submit().run("architect")
    token = pipeline.claim("builder")
    first = state.expand(JOB, "builder", token, Growth(FILES), StepResult(), {}, {})
    told = len(pipeline.events)

    again = state.expand(JOB, "builder", token, Growth(FILES), StepResult(), {}, {})

    assert again == first
    assert len(pipeline.events) == told


def test_a_step_that_is_committed_may_add_others(state: State, client: redis.Redis) -> None:
    pipeline = Pipeline(state, client).submit().run("architect").expand("builder")
    pipeline.run("docs", *(one.id for one in FILES))
    repair = (NewStep("builder/a.py@2", "file", ("qa",)), NewStep("qa@2", "qa", ("builder/a.py@2",)))

    pipeline.run("qa", adds=repair)

    assert pipeline.progress.status == "running"
    pipeline.run("builder/a.py@2", "qa@2")
    assert pipeline.progress.status == "succeeded"
    assert all(pipeline.types(one).count("step.succeeded") == 1 for one in state.plan(JOB).by_id)


def test_a_failed_file_fails_the_job_and_a_resume_runs_what_is_missing(grown: Pipeline) -> None:
    grown.run("docs", "builder/a.py").fail("builder/c.py")
    grown.sent.pop("builder/b.py", None)
    assert grown.progress.status in ("failed", "running")
    if grown.progress.status == "running":
        grown.state.abort(JOB, Failure(step=None, kind="timeout", message="no"))

    grown.resume()

    assert {"builder/b.py", "builder/c.py"} <= set(grown.sent)
    assert "builder" not in grown.sent
    grown.run("builder/b.py", "builder/c.py")
    grown.expand("builder")  # it is asked again, adds nothing, and is done at once
    grown.run("qa")
    assert grown.progress.status == "succeeded"
    assert grown.types("builder/a.py").count("step.started") == 1


def test_a_cancelled_job_leaves_nothing_that_could_run(grown: Pipeline) -> None:
    grown.state.cancel(JOB, "enough")

    assert grown.progress.status == "cancelled"
    for step in ("builder/a.py", "builder/c.py"):
        one = grown.sent[step]
        assert grown.state.claim(JOB, step, one.ticket, "late", 30, "worker:1").verdict == "void"
    assert grown.progress.steps["builder"].status == "cancelled"


def test_a_worker_that_dies_with_a_file_loses_that_file_alone(grown: Pipeline) -> None:
    grown.claim("builder/a.py", lease_s=-1)

    grown.take(grown.state.recover(JOB, calm=True, grace_s=1000))

    assert grown.types("builder/a.py")[-2:] == ["step.lost", "step.queued"]
    assert "step.lost" not in grown.types("builder")
    grown.run("docs", "builder/a.py", "builder/b.py", "builder/c.py", "qa")
    assert grown.progress.status == "succeeded"


def test_the_concurrency_of_the_job_holds_for_added_steps(state: State, client: redis.Redis) -> None:
    pipeline = Pipeline(state, client).submit(concurrency=2).run("architect").expand("builder")

    assert len(client.smembers(f"{JobKeys(JOB).job}:active")) <= 2
    for _ in range(5):
        pipeline.run(next(iter(pipeline.sent)))
        assert len(client.smembers(f"{JobKeys(JOB).job}:active")) <= 2
    assert pipeline.progress.status == "succeeded"
