"""Steps of the fleet that ask the same question at once: one of them asks, the others get its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.gateway import OTHERS_ANSWER_S
from orchestrator.retry import Parked
from providers import Request
from providers.errors import AuthFailed, Cancelled
from tasks.kinds import KINDS
from tests.gateway.elsewhere import Elsewhere
from tests.gateway.fleet import Fleet, at_once, eventually
from tests.gateway.providers import Backend, Held, OverHttp, Scripted

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

MANY = 64


def of_the_fleet(*answers: object) -> Scripted:
    """A provider elsewhere, whose answers steps share."""
    return Scripted(*answers, endpoint="far away")


def slow(request: Request) -> str:
    threading.Event().wait(0.3)
    return "the answer"


# --- one asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_question_that_64_steps_ask_at_once_is_asked_once(fleet: Fleet, jobs: int) -> None:
    provider = of_the_fleet(slow)
    submitted = [fleet.submit(*(f"s{n}" for n in range(MANY // jobs))) for _ in range(jobs)]
    runs = [run for job in submitted for run in job.claim_all()]

    answers = at_once(*(lambda run=run: run.ask(provider) for run in runs))

    assert answers == ["the answer"] * MANY
    assert len(provider.asked) == 1
    types = [kind for job in submitted for kind in job.types]
    assert sorted(types) == sorted(["cache.miss", "llm.request", "llm.response"] + ["cache.hit"] * (MANY - 1))
    assert fleet.client.keys("orch:flight:*") == []


def test_when_the_one_who_asks_gets_no_answer_the_next_asks(fleet: Fleet) -> None:
    failing = Held(AuthFailed("no", "scripted"))
    provider = of_the_fleet(failing, slow)
    first, *others = fleet.submit("a", "b", "c", "d").claim_all()
    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(first.ask, provider)
        assert failing.asked.wait(10)
        waiting = [pool.submit(run.ask, provider) for run in others]
        failing.go.set()

        assert isinstance(leader.exception(10), AuthFailed)
        assert [one.result(10) for one in waiting] == ["the answer"] * 3
    assert len(provider.asked) == 2


@pytest.mark.parametrize("end", ["lost", "parked", "failed", "its job is cancelled"])
def test_when_the_step_that_asks_ends_another_asks_and_nobody_hangs(fleet: Fleet, end: str) -> None:
    # given a step that asks, and another that waits for its answer
    held = Held("late")
    provider = of_the_fleet(held, "the answer")
    leader, waiter = fleet.run(), fleet.run()
    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(leader.ask, provider)
        assert held.asked.wait(10)
        waiting = pool.submit(waiter.ask, provider)

        # when the first is no longer anybody's
        match end:
            case "lost":
                leader.job.lose()
            case "parked":
                leader.release(60)
            case "failed":
                leader.fail()
            case _:
                fleet.state.cancel(leader.job.id, "enough")

        # then
        assert waiting.result(10) == "the answer"
        held.go.set()
        assert leading.result(10) == "late", "what was paid for is not thrown away"
    waiter.succeed()
    assert fleet.left() == set()


def test_when_the_process_that_asks_is_killed_another_asks(
    fleet: Fleet, backend: Callable[..., Backend], elsewhere: Callable[..., Elsewhere]
) -> None:
    # given a process whose call hangs, and a step here that waits for its answer
    hangs, go = threading.Event(), threading.Event()

    def reply(number: int) -> tuple[int, str]:
        if number == 1:
            hangs.set()
            go.wait(30)
        return 200, "the answer"

    server = backend(reply)
    job = fleet.submit()
    process = elsewhere(server.address, job)
    assert hangs.wait(20)
    other = fleet.submit()
    worker = fleet.runner(lambda *_: OverHttp(server.address))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(worker.run, KINDS["prompt"], other.id, "only", other.sent["only"].ticket)
        eventually(lambda: other.events("step.started"))

        # when it dies, and its lease runs out
        process.kill()
        job.lose()

        # then
        assert waiting.result(10).outcome == "done"
        go.set()
    assert len(server.seen) == 2
    assert other.types == ["cache.miss", "llm.request", "llm.response"]


def test_a_step_that_waits_long_for_anothers_answer_is_parked(fleet: Fleet) -> None:
    held = Held("late")
    provider = of_the_fleet(held)
    leader, waiter = fleet.run(), fleet.run()
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(leader.ask, provider)
        assert held.asked.wait(10)

        with pytest.raises(Parked) as parked:
            waiter.ask(provider)

        held.go.set()
        leading.result(10)
    assert parked.value.seconds == OTHERS_ANSWER_S
    assert "another step" in parked.value.reason
    assert waiter.job.types == []


def test_a_step_that_was_parked_for_anothers_answer_is_due_when_it_is_there(fleet: Fleet) -> None:
    # given a step that is parked for longer than anybody waits for it
    held = Held("late")
    provider = of_the_fleet(held)
    leader, waiter = fleet.run(), fleet.run()
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(leader.ask, provider)
        assert held.asked.wait(10)
        with pytest.raises(Parked):
            waiter.ask(provider)
        waiter.release(1000)
        waiter.job.again(at_once=False)
        assert waiter.job.events("step.queued")[1:] == []

        # when the answer comes
        held.go.set()
        leading.result(10)

    # then it runs, and has it
    waiter.job.again(at_once=False)
    assert waiter.job.claim().ask(provider) == "late"


def test_a_step_that_waits_for_anothers_answer_can_be_cancelled(fleet: Fleet) -> None:
    held = Held("late")
    provider = of_the_fleet(held)
    leader, waiter = fleet.run(), fleet.run()
    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(leader.ask, provider)
        assert held.asked.wait(10)
        waiting = pool.submit(waiter.ask, provider)

        waiter.cancelled.set()

        assert isinstance(waiting.exception(10), Cancelled)
        held.go.set()
        leading.result(10)


# --- who does not share -----------------------------------------------------------------------------------------------


def test_jobs_without_the_cache_do_not_share(fleet: Fleet) -> None:
    # given a provider that answers only when two ask at the same time
    both = threading.Barrier(2)

    def reply(request: Request) -> str:
        return f"answer {both.wait(20)}"

    provider = of_the_fleet(reply, reply)
    runs = [fleet.run(cache="off") for _ in range(2)]

    answers = at_once(*(lambda run=run: run.ask(provider) for run in runs))

    assert sorted(answers) == ["answer 0", "answer 1"]


def test_jobs_that_refresh_the_cache_share_one_fresh_answer_and_not_the_old_one(fleet: Fleet) -> None:
    fleet.run().ask(of_the_fleet("the old answer"))
    provider = of_the_fleet(slow)
    runs = [fleet.run(cache="refresh") for _ in range(8)]

    answers = at_once(*(lambda run=run: run.ask(provider) for run in runs))

    assert answers == ["the answer"] * 8
    assert len(provider.asked) == 1


def test_a_step_that_was_parked_meanwhile_takes_the_fresh_answer(fleet: Fleet) -> None:
    job = fleet.submit("a", "b", cache="refresh")
    waiter = job.claim("b")
    waiter.release(60)
    job.claim("a").ask(of_the_fleet("fresh"))
    job.again()

    assert job.claim("b").ask(of_the_fleet()) == "fresh"
