"""How a step ends that a worker runs, and what of it reaches the event stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.events import Event
from providers import Provider, ProviderError, Tool
from providers.errors import AuthFailed, NotReady, RateLimited, ServerError, TimedOut
from providers.simulated import SimulatedProvider
from tasks.runner import Ended
from tasks.step import Output, StepError, StepKind
from tests.gateway.fleet import PROMPT, QUESTION, Fleet, Job, eventually
from tests.gateway.providers import Scripted

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

COMPLETION = "plugh-the-completion"
NUMBER = Tool(
    "submit",
    "Hand it in.",
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
)
RunStep = Callable[..., tuple[Ended, list[Event]]]

# --- what reaches the event stream ------------------------------------------------------------------------------------


def texts(events: Sequence[Event]) -> str:
    return "".join(event.to_line() for event in events)


def test_a_step_that_succeeds_leaves_neither_its_prompt_nor_its_answer_in_events(
    run_step: RunStep,
) -> None:
    ended, events = run_step(lambda *_: Scripted(COMPLETION))

    assert ended.outcome == "done"
    assert PROMPT not in texts(events)
    assert COMPLETION not in texts(events)


@pytest.mark.parametrize(
    "answer",
    [f'{{"n": "{COMPLETION}"}}', f'["{COMPLETION}"]', COMPLETION, f'{{"{COMPLETION}": 1}}'],
    ids=["a wrong type", "no object", "no JSON", "a wrong name"],
)
def test_a_step_whose_answer_cannot_be_read_does_not_tell_it_in_events(
    run_step: RunStep, answer: str
) -> None:
    # given a step that asks for a number
    def run(step: Any) -> Output:
        return Output(text=str(step.gateway.tool_call(QUESTION, NUMBER, lambda values: values["n"])))

    # when a model answers something else, twice
    ended, events = run_step(lambda *_: Scripted(answer, answer), StepKind("prompt", run, "v1"))

    # then the failure says so without repeating it
    assert ended.outcome == "failed"
    assert events[-1].get("failures")[0]["kind"] == "invalid_answer"
    assert COMPLETION not in texts(events)
    assert PROMPT not in texts(events)


def test_half_a_surrogate_pair_in_a_steps_data_ends_the_step(
    run_step: RunStep,
) -> None:
    # given a step whose data come from a model that was cut in the middle of an emoji
    kind = StepKind("prompt", lambda _: Output(text="x", data={"next": ["run \ud83d"]}), "v1")

    ended, events = run_step(lambda *_: Scripted(), kind)

    # then it is done or failed, but not left for its lease to run out
    assert ended.outcome in ("done", "failed")
    assert events[-1].type in ("job.succeeded", "job.failed")


def test_half_a_surrogate_pair_in_an_error_ends_the_step(
    run_step: RunStep,
) -> None:
    ended, events = run_step(lambda *_: Scripted(RateLimited("come back \ud83d", "scripted")), retries=0)

    assert ended.outcome == "failed"
    assert events[-1].type == "job.failed"


def test_half_a_surrogate_pair_in_an_error_that_may_be_retried_parks_the_step(run_step: RunStep) -> None:
    # a rate limit fails a step only when its retries are used up: until then it is parked
    ended, events = run_step(lambda *_: Scripted(RateLimited("come back \ud83d", "scripted", 429, 60.0)))

    assert ended.outcome == "back"
    assert (events[-1].type, events[-1].step) == ("step.retrying", "only")
    assert events[-1].get("wait_ms") == 60_000
    assert events[-1].get("tries") == 1


@pytest.mark.parametrize("retries", [1])
def test_half_a_surrogate_pair_in_an_error_that_is_retried_at_once_does_not_end_the_step(
    run_step: RunStep, retries: int
) -> None:
    ended, events = run_step(
        lambda *_: Scripted(RateLimited("come back \ud83d", "scripted", 429, 0.01), "good"), retries=retries
    )

    assert ended.outcome == "done"
    assert [one.get("inline") for one in events if one.type == "step.retrying"] == [True]


def test_a_step_with_a_provider_of_its_own_does_not_get_the_jobs_model(
    run_step: RunStep,
) -> None:
    # given a job for scaffold with a model, whose step names another provider and no model
    asked: list[tuple[str, str | None]] = []

    def make(name: str, model: str | None) -> Provider:
        asked.append((name, model))
        return SimulatedProvider(model)

    run_step(make, provider="simulated")

    # then the model is that provider's own
    assert asked == [("simulated", None)]


def test_a_provider_that_was_passed_over_since_it_is_not_ready_is_told_of(
    run_step: RunStep,
) -> None:
    def make(name: str, model: str | None) -> Provider:
        if name == "anthropic":
            raise NotReady("no key", name)
        return SimulatedProvider(model)

    ended, events = run_step(make, provider=["anthropic", "simulated"])

    assert ended.outcome == "done"
    [fallback] = [event for event in events if event.type == "provider.fallback"]
    assert (fallback.get("from"), fallback.get("to")) == ("anthropic", "simulated")


# --- what becomes of a step -------------------------------------------------------------------------------------------


def asleep(step: Any) -> Output:
    """A step that only ends when it is told to."""
    step.gateway._asker.cancelled.wait(30)
    raise StepError("cancelled", "somebody wanted it so")


ASLEEP = StepKind("prompt", asleep, "v1")


def nobody(name: str, model: str | None) -> Provider:
    return Scripted(model=model or "m")


@pytest.mark.parametrize(
    "error", [ServerError("down"), TimedOut("late"), AuthFailed("no"), StepError("qa", "bad")]
)
def test_an_error_that_no_waiting_helps_fails_the_step_at_once(
    run_step: RunStep, error: ProviderError | StepError
) -> None:
    def run(_: Any) -> Output:
        raise error

    ended, events = run_step(nobody, StepKind("prompt", run, "v1"))

    assert (ended.outcome, ended.message) == ("failed", str(error))
    assert events[-1].get("failures") == [{"step": "only", "kind": error.kind, "message": str(error)}]


def test_a_step_that_is_told_to_end_by_its_time_limit_fails_with_it(
    run_step: RunStep,
) -> None:
    ended, events = run_step(nobody, ASLEEP, timeout_s=0.2)

    assert ended.outcome == "failed"
    [failure] = events[-1].get("failures")
    assert (failure["kind"], "0.2 s" in failure["message"]) == ("timeout", True)


@pytest.mark.parametrize("how", ["shut down", "cancelled"])
def test_a_running_step_ends_when_its_worker_has_to_go_or_its_job_is_cancelled(
    fleet: Fleet, submit_step: Callable[..., Job], how: str
) -> None:
    # given a step that runs
    worker, job = fleet.runner(nobody), submit_step()
    sent = job.sent["only"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run, ASLEEP, job.id, sent.step, sent.ticket)
        eventually(lambda: bool(worker.heartbeat.held()))

        # when
        if how == "shut down":
            worker.heartbeat.held()[0].stop("shutdown")
        else:
            fleet.state.cancel(job.id, "enough")
        ended = running.result(5)

    # then it was given back for another worker, or nobody wants it
    if how == "shut down":
        assert (ended.outcome, [one.step for one in ended.ready]) == ("back", ["only"])
        assert fleet.state.job(job.id)["status"] == "running"
    else:
        assert ended.outcome == "void"
        assert fleet.state.job(job.id)["status"] == "cancelled"
    assert worker.heartbeat.held() == []
