"""What a step has paid for stays with it until it ends, whatever becomes of the run that paid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from orchestrator.names import JobKeys
from orchestrator.retry import Parked
from providers import Completion, ProviderError
from providers.errors import InvalidAnswer, ServerError
from tests.gateway.fleet import Fleet, Job, Run, told
from tests.gateway.providers import Scripted, completion

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]


def good(text: str) -> str:
    if "good" not in text:
        raise ValueError("it is not good")
    return text


def remote(*answers: str | Completion | ProviderError) -> Scripted:
    return Scripted(*answers, endpoint="http://somewhere")


def later() -> ProviderError:
    return ServerError("come back", "scripted", 503, 10)


def parked_and_claimed_again(job: Job, run: Run, provider: Scripted, **more: object) -> Run:
    """Ask until the step has to be parked, and claim it again."""
    with pytest.raises(Parked) as parked:
        run.ask(provider, read=good, retries=3, **more)
    run.release(10, parked.value.tries.model_dump_json())
    job.again()
    return job.claim()


@pytest.mark.parametrize("use", ["use", "refresh", "off"])
def test_an_answer_that_could_not_be_read_is_not_asked_for_again_after_a_park(fleet: Fleet, use: str) -> None:
    # given a step whose second question, about a bad answer to the first, has to wait
    job = fleet.submit(cache=use)
    provider = remote("bad", later(), "good")
    second = parked_and_claimed_again(job, job.claim(), provider)

    # when it runs again
    answer = second.ask(provider, read=good, retries=3)

    # then only the second question is asked again
    assert answer == "good"
    assert [len(request.messages) for request in provider.asked] == [1, 3, 3]
    assert [hit["layer"] for hit in told(second, "cache.hit")] == ["step"]


def test_the_beginning_of_a_long_answer_is_not_asked_for_again_after_a_park(fleet: Fleet) -> None:
    job = fleet.submit()
    provider = remote(completion("a good be", finish_reason="length"), later(), "ginning")
    second = parked_and_claimed_again(job, job.claim(), provider)

    assert second.ask(provider, read=good, retries=3) == "a good beginning"
    assert [len(request.messages) for request in provider.asked] == [1, 3, 3]


def test_an_answer_whose_worker_died_before_it_was_read_is_not_asked_for_again(fleet: Fleet) -> None:
    # given a worker that dies over an answer
    job = fleet.submit()
    provider = remote("good")

    def dies(text: str) -> str:
        raise SystemExit

    with pytest.raises(SystemExit):
        job.claim().ask(provider, read=dies)
    job.lose()

    # when another one runs the step
    second = job.claim()

    # then the answer is there, and where all will find it
    assert second.ask(provider, read=good) == "good"
    assert len(provider.asked) == 1
    assert [hit["layer"] for hit in told(second, "cache.hit")] == ["step"]
    assert fleet.submit().claim().ask(provider, read=good) == "good"


@pytest.mark.parametrize("end", [Run.succeed, Run.fail], ids=["success", "failure"])
def test_nothing_is_kept_once_the_step_has_ended(
    fleet: Fleet, client: redis.Redis, end: Callable[[Run], None]
) -> None:
    job = fleet.submit("one", "other", cache="off")
    runs = job.claim_all()
    for run in runs:
        run.ask(remote("good"), read=good)
    assert client.hlen(JobKeys(job.id).paid) == 2

    end(runs[0])

    [left] = client.hkeys(JobKeys(job.id).paid)
    assert left.decode().startswith(f"{runs[1].holder.step}:")


def test_a_new_attempt_is_not_bound_to_the_bad_answers_of_the_last(fleet: Fleet) -> None:
    job = fleet.submit()
    run = job.claim()
    with pytest.raises(InvalidAnswer):
        run.ask(remote("bad", "worse"), read=good)
    run.fail()

    for one in fleet.state.resume(job.id, "ready", {}):
        job.sent[one.step] = one

    provider = remote("good")
    assert job.claim().ask(provider, read=good) == "good"
    assert len(provider.asked) == 1


def test_what_a_provider_makes_for_nothing_and_at_once_is_not_kept(fleet: Fleet, client: redis.Redis) -> None:
    job = fleet.submit()
    job.claim().ask(Scripted("good"), read=good)

    assert client.hlen(JobKeys(job.id).paid) == 0


def test_a_call_that_was_told_of_twice_is_booked_once(fleet: Fleet, client: redis.Redis) -> None:
    # given a Redis that loses replies, so that admission and settlement are repeated
    job = fleet.submit(budget={"tokens": 100_000})
    run, provider = job.claim(), remote("good")
    scripts = fleet.admission.scripts
    once = scripts.call

    def twice(*args: object) -> object:
        once(*args)
        return once(*args)

    scripts.call = twice  # type: ignore[method-assign]
    run.ask(provider, read=good)

    assert [len(told(run, kind)) for kind in ("llm.request", "llm.response")] == [1, 1]
    assert client.hget(JobKeys(job.id).job, "spent_tokens") == b"18"
