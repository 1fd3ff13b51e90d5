"""Calls that fail are made again while that may help: at once, after a park, and then by the next provider."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from orchestrator.events import Event
from orchestrator.retry import Parked, Tries
from providers import Provider, ProviderError
from providers.errors import (
    AuthFailed,
    BadRequest,
    Cancelled,
    ConnectionFailed,
    NotReady,
    QuotaExceeded,
    RateLimited,
    Refused,
    ServerError,
    TimedOut,
)
from tasks.kinds import KINDS
from tests.gateway.fleet import Fleet, Job, Run, eventually, told
from tests.gateway.providers import Always, Scripted

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]


class Second(Scripted):
    name: ClassVar[str] = "ollama"


class Third(Scripted):
    name: ClassVar[str] = "mlx"


def soon(error: type[ProviderError] = ServerError) -> ProviderError:
    """An error after which it makes sense to come back at once."""
    return error("not now", "scripted", 503, 0.01)


def later(seconds: float = 10) -> ProviderError:
    return ServerError("come back", "scripted", 503, seconds)


@pytest.fixture
def run(fleet: Fleet) -> Run:
    """A claimed step."""
    return fleet.run()


@pytest.fixture
def work(fleet: Fleet) -> Callable[[Job, Provider], str]:
    """Has a worker run the step of a job; how that ended."""

    def once(job: Job, *providers: Provider) -> str:
        by_name = {one.name: one for one in providers}
        worker = fleet.runner(lambda name, _: by_name.get(name, providers[0]))
        one = job.sent["only"]
        return worker.run(KINDS["prompt"], job.id, one.step, one.ticket).outcome

    return once


def waits(job: Job) -> list[Event]:
    return job.events("step.retrying")


# --- at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ServerError, RateLimited, TimedOut, ConnectionFailed])
def test_a_call_that_may_succeed_next_time_is_made_again_in_the_same_run(
    run: Run, kind: type[ProviderError]
) -> None:
    assert run.ask(Scripted(soon(kind), soon(kind), "good"), retries=3) == "good"

    assert run.job.types == ["cache.miss", *["llm.request", "llm.response"] * 3]
    first, second = told(run, "step.retrying")
    assert first == {"reason": "scripted: not now", "wait_ms": 10, "tries": 1, "inline": True}
    assert second["tries"] == 2
    assert [event.level for event in waits(run.job)] == ["WARN", "WARN"]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_call_is_made_once_and_as_often_again_as_there_are_retries(run: Run, retries: int) -> None:
    provider = Always(soon())

    with pytest.raises(ServerError):
        run.ask(provider, retries=retries)

    assert len(provider.asked) == 1 + retries
    assert len(waits(run.job)) == retries


@pytest.mark.parametrize(
    "error", [AuthFailed("no"), QuotaExceeded("no"), NotReady("no"), BadRequest("no"), Refused("no")]
)
def test_what_trying_again_does_not_help_is_not_tried_again(run: Run, error: ProviderError) -> None:
    provider = Always(error)

    with pytest.raises(type(error)):
        run.ask(provider, retries=5)

    assert len(provider.asked) == 1


def test_each_question_has_all_its_retries(run: Run) -> None:
    def good(text: str) -> str:
        if "good" not in text:
            raise ValueError("it is not good")
        return text

    provider = Scripted(soon(), "bad", soon(), "good")

    assert run.ask(provider, retries=1, read=good) == "good"


def test_a_wait_ends_when_the_step_shall_end(run: Run) -> None:
    provider = Always(ServerError("not now", "scripted", 503, 1.9))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(run.ask, provider, retries=1)
        eventually(lambda: waits(run.job))

        run.cancelled.set()

        assert isinstance(asking.exception(1.5), Cancelled)


# --- after a park -----------------------------------------------------------------------------------------------------


def test_a_long_wait_is_not_waited_for_in_a_worker(run: Run) -> None:
    with pytest.raises(Parked) as parked:
        run.ask(Always(later()), retries=3)

    assert (parked.value.reason, parked.value.seconds) == ("scripted: come back", 10)
    assert parked.value.tries == Tries(provider="scripted", failed=1, since=parked.value.tries.since)
    assert waits(run.job) == []


def test_tries_are_counted_over_parks_until_the_retries_are_used_up(
    fleet: Fleet, work: Callable[..., str]
) -> None:
    # given a provider that always says "in 10 s", and a worker that may retry thrice
    provider, job, outcomes = Always(later()), fleet.submit(), []

    # when the step runs each time it is due
    for _ in range(4):
        outcomes.append(work(job, provider))
        job.again()

    # then
    assert outcomes == ["back", "back", "back", "failed"]
    assert len(provider.asked) == 4
    assert [(event.get("wait_ms"), event.get("tries")) for event in waits(job)] == [
        (10_000, 1),
        (10_000, 2),
        (10_000, 3),
    ]
    assert all("come back" in event.get("reason") for event in waits(job))
    assert job.events()[-1].get("failures")[0]["kind"] == "server"


@pytest.mark.parametrize(("own", "calls"), [({"retries": 1}, 2), ({"retries": 0}, 1), ({}, 4)])
def test_a_steps_own_retries_go_before_the_workers(
    fleet: Fleet, work: Callable[..., str], own: dict[str, int], calls: int
) -> None:
    provider, job = Always(soon()), fleet.submit(of_steps=own)

    assert work(job, provider) == "failed"

    assert len(provider.asked) == calls


def test_a_new_attempt_of_the_job_has_all_retries_again(fleet: Fleet, work: Callable[..., str]) -> None:
    provider, job = Always(later()), fleet.submit(of_steps={"retries": 1})
    work(job, provider)
    fleet.state.cancel(job.id, "enough")

    sent = fleet.state.resume(job.id, "ready", {})
    assert isinstance(sent, list)
    job.sent["only"] = sent[0]

    assert work(job, provider) == "back"
    job.again()
    assert work(job, provider) == "failed"


def test_a_vendor_is_not_believed_beyond_a_minute(fleet: Fleet, work: Callable[..., str]) -> None:
    job = fleet.submit()

    assert work(job, Always(later(600))) == "back"

    assert [event.get("wait_ms") for event in waits(job)] == [60_000]


def test_an_answer_after_a_park_begins_a_new_count_for_the_next_question(fleet: Fleet) -> None:
    run = fleet.run()
    run.retry = Tries(provider="scripted", failed=3, since=0).model_dump_json()
    gateway = run.gateway(Scripted("one", soon(), "two"), retries=3)

    first = gateway.generate([{"role": "user", "content": "1"}], str)
    second = gateway.generate([{"role": "user", "content": "2"}], str)

    assert (first, second) == ("one", "two")


def test_a_question_that_failed_first_long_ago_is_given_up(run: Run) -> None:
    run.retry = Tries(provider="scripted", failed=1, since=1).model_dump_json()
    provider = Always(soon())

    with pytest.raises(ServerError):
        run.ask(provider, retries=20)

    assert len(provider.asked) == 1


# --- the next provider ------------------------------------------------------------------------------------------------


def test_each_provider_has_all_retries_before_the_next_is_asked(run: Run) -> None:
    first, second, third = Always(soon()), Second(*[soon()] * 3), Third("good")

    assert run.ask(first, second, third, retries=2) == "good"

    assert (len(first.asked), len(second.asked), len(third.asked)) == (3, 3, 1)
    assert [(one["from"], one["to"], one["reason"]) for one in told(run, "provider.fallback")] == [
        ("scripted", "ollama", "server"),
        ("ollama", "mlx", "server"),
    ]


@pytest.mark.parametrize("error", [soon(), AuthFailed("no", "scripted", 401)], ids=["tried", "unavailable"])
def test_a_provider_that_was_given_up_before_a_park_is_not_asked_again_after_it(
    fleet: Fleet, work: Callable[..., str], error: ProviderError
) -> None:
    # given a first provider that fails, and a second that wants to be left alone
    first, second = Always(error), Second(later(), later(), "good")
    job, outcomes = fleet.submit(provider=["openai", "ollama"], of_steps={"retries": 2}), []

    for _ in range(3):
        outcomes.append(work(job, first, second))
        job.again()

    assert outcomes == ["back", "back", "done"]
    assert len(first.asked) == (3 if error.kind == "server" else 1)
    assert len(second.asked) == 3


@pytest.mark.parametrize("error", [soon(), AuthFailed("no", "scripted", 401)], ids=["tried", "unavailable"])
def test_a_provider_that_was_given_up_is_not_asked_again_after_the_next_was_not_even_asked(
    fleet: Fleet, work: Callable[..., str], error: ProviderError
) -> None:
    # given a second provider that is limited by its vendor now
    fleet.client.hset("orch:limit:ollama/m", "until_ms", int(time.time() * 1000) + 60_000)
    first, second = Always(error), Second("good")
    job = fleet.submit(provider=["openai", "ollama"], of_steps={"retries": 0})
    assert work(job, first, second) == "back"
    fleet.client.delete("orch:limit:ollama/m")
    job.again()

    assert work(job, first, second) == "done"

    assert (len(first.asked), len(second.asked)) == (1, 1)


def test_a_park_at_the_first_provider_does_not_forget_the_others(
    fleet: Fleet, work: Callable[..., str]
) -> None:
    first, second = Always(later()), Second("good")
    job = fleet.submit(provider=["openai", "ollama"], of_steps={"retries": 1})

    assert work(job, first, second) == "back"
    job.again()
    assert work(job, first, second) == "done"

    assert (len(first.asked), len(second.asked)) == (2, 1)


def test_a_provider_that_is_no_longer_in_the_list_after_a_park_is_forgotten(run: Run) -> None:
    run.retry = Tries(provider="gone", failed=9, since=0).model_dump_json()

    assert run.ask(Scripted(soon(), "good"), retries=1) == "good"
