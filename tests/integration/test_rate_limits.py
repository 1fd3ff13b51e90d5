"""Limits of a model: ours from the models file, and what its vendor says, for the whole fleet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.progress import Progress
from orchestrator.retry import Parked
from providers import Allowance
from providers.config import Config
from providers.errors import RateLimited
from providers.simulated import SimulatedProvider
from tasks.kinds import KINDS
from tests.gateway.elsewhere import Elsewhere
from tests.gateway.fleet import Fleet, eventually
from tests.gateway.providers import Always, Backend, Held, Scripted, completion

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

Limited = Callable[..., Config]


@pytest.fixture
def limited(tmp_path: Path) -> Limited:
    """A models file that sets these limits for a provider."""

    def write(provider: str, **limits: int) -> Config:
        path = tmp_path / "models.toml"
        values = ", ".join(f"{name} = {value}" for name, value in limits.items())
        path.write_text(f"[{provider}]\nlimits = {{ {values} }}\n")
        return Config(models_file=path)

    return write


def ask(fleet: Fleet, provider: Scripted, text: str = "", **more: Any) -> str:
    """Ask something that nobody has asked before, for a step of a new job."""
    run = fleet.run()
    return run.ask(provider, question=[{"role": "user", "content": text or run.job.id}], **more)


def wait_of(fleet: Fleet, provider: Scripted, **more: Any) -> Parked:
    """How a question is turned away."""
    with pytest.raises(Parked) as parked:
        ask(fleet, provider, **more)
    return parked.value


# --- ours -------------------------------------------------------------------------------------------------------------


def test_no_more_calls_run_at_once_than_the_limit_over_all_processes(
    fleet: Fleet, backend: Callable[..., Backend], elsewhere: Callable[..., Elsewhere], limited: Limited
) -> None:
    # given two processes with 8 steps at once each, and a model that takes 3 calls at once
    def reply(_: int) -> tuple[int, str]:
        threading.Event().wait(0.1)
        return 200, "the answer"

    server, names = backend(reply), [f"s{n}" for n in range(16)]
    job, config = fleet.submit(*names, distinct=True), limited("openai", concurrency=3)

    processes = [elsewhere(server.address, job, *names[n::2], config=config) for n in range(2)]
    for process in processes:
        process.wait()

    assert 2 <= server.most <= 3
    assert len(server.seen) >= 8
    assert job.events("step.failed") == []
    assert fleet.left() == set()


def test_a_call_waits_in_its_worker_for_a_place_that_is_soon_free(fleet: Fleet, limited: Limited) -> None:
    held = Held("the first")
    provider = Scripted(held, "the second", config=limited("scripted", concurrency=1))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, fleet, provider)
        assert held.asked.wait(10)
        second = pool.submit(ask, fleet, provider)

        held.go.set()

        assert (first.result(10), second.result(10)) == ("the first", "the second")


def test_a_step_over_the_requests_of_a_minute_is_parked_until_there_is_room_and_show_says_so(
    fleet: Fleet, limited: Limited
) -> None:
    config = limited("simulated", requests_per_minute=2)
    worker = fleet.runner(lambda _, model: SimulatedProvider(None, config))
    job = fleet.submit("a", "b", "c", distinct=True, provider="simulated")

    outcomes = [
        worker.run(KINDS["prompt"], job.id, one.step, one.ticket).outcome for one in job.sent.values()
    ]

    assert outcomes == ["done", "done", "back"]
    assert len(job.events("llm.request")) == 2
    progress = Progress.of(job.id, job.events())
    waiting = progress.to_json()["steps"]["c"]["waiting"]
    assert waiting["reason"] == "simulated/simulated-1: 2 requests a minute"
    [parked] = job.events("step.retrying")
    assert 50_000 < parked.get("wait_ms") <= 66_000
    assert waiting["until"] > parked.ts


def test_tokens_of_a_minute_are_counted_as_they_were_taken(fleet: Fleet, limited: Limited) -> None:
    # given calls that may take 66 tokens and take 18
    provider = Always("the answer", config=limited("scripted", tokens_per_minute=100))
    options = {"max_tokens": 50}
    ask(fleet, provider, "a" * 24, options=options)
    ask(fleet, provider, "b" * 24, options=options)

    # then the third does not fit
    parked = wait_of(fleet, provider, text="c" * 24, options=options)
    assert "100 tokens a minute" in parked.reason
    assert 50 < parked.seconds <= 66


def test_a_call_larger_than_the_tokens_of_a_minute_is_made_when_nothing_else_is(
    fleet: Fleet, limited: Limited
) -> None:
    provider = Always(completion("the answer", 500, 500), config=limited("scripted", tokens_per_minute=100))

    assert ask(fleet, provider) == "the answer"
    assert 50 < wait_of(fleet, provider).seconds <= 66


def test_the_limits_of_a_minute_are_over_after_a_minute(fleet: Fleet, limited: Limited) -> None:
    provider = Always("the answer", config=limited("scripted", requests_per_minute=1))
    ask(fleet, provider)
    assert wait_of(fleet, provider)

    # when the only request was 61 s ago
    [(second, count)] = fleet.client.hgetall("orch:limit:scripted/m:requests").items()
    fleet.client.delete("orch:limit:scripted/m:requests")
    fleet.client.hset("orch:limit:scripted/m:requests", int(second) - 61, count)

    # then there is room, and what is old is forgotten
    assert ask(fleet, provider) == "the answer"
    assert fleet.client.hlen("orch:limit:scripted/m:requests") == 1
    assert 0 < fleet.client.ttl("orch:limit:scripted/m:requests") <= 120


# --- the vendor's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "allowance",
    [Allowance(requests=0, requests_reset_s=40), Allowance(tokens=3, tokens_reset_s=40)],
    ids=["requests", "tokens"],
)
def test_a_model_whose_vendor_says_that_nothing_is_left_is_left_alone_until_then(
    fleet: Fleet, allowance: Allowance
) -> None:
    ask(fleet, Scripted(completion("the last", allowance=allowance)))

    parked = wait_of(fleet, Scripted("never"))

    assert 35 < parked.seconds <= 44
    assert "limited by its vendor" in parked.reason
    assert ask(fleet, Scripted("another model", model="m2")) == "another model"


def test_what_calls_under_way_will_take_is_taken_off_what_the_vendor_says_is_left(fleet: Fleet) -> None:
    # given a vendor that allows one more request
    ask(fleet, Scripted(completion("the first", allowance=Allowance(requests=1, requests_reset_s=40))))
    held = Held("the last")
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(ask, fleet, Scripted(held))
        assert held.asked.wait(10)

        # then there is none beside it
        assert "limited by its vendor" in wait_of(fleet, Scripted("never")).reason

        held.go.set()
        assert last.result(10) == "the last"


@pytest.mark.parametrize(("asked_s", "waits_s"), [(40, 40), (5000, 60)], ids=["a while", "for ever"])
def test_a_model_whose_vendor_says_too_many_is_left_alone_by_all_for_as_long_as_is_reasonable(
    fleet: Fleet, asked_s: float, waits_s: float
) -> None:
    limiting = Scripted(RateLimited("too many", "scripted", 429, asked_s))

    own = wait_of(fleet, limiting, retries=1)
    others = wait_of(fleet, Scripted("never"))

    assert own.seconds == waits_s
    assert waits_s * 0.9 < others.seconds <= waits_s * 1.1
    assert ask(fleet, Scripted("another model", model="m2")) == "another model"


def test_a_model_that_was_limited_is_asked_again_when_the_time_is_over(fleet: Fleet) -> None:
    run = fleet.run()

    assert run.ask(Scripted(RateLimited("too many", "scripted", 429, 0.2), "good"), retries=1) == "good"

    first, second = run.job.events("llm.request")
    assert second.at_ms - first.at_ms >= 200
    assert [event.get("inline") for event in run.job.events("step.retrying")] == [True]
    eventually(lambda: fleet.client.ttl("orch:limit:scripted/m") > 0)


def test_what_a_vendor_asks_for_in_so_many_words_counts_before_its_allowance(fleet: Fleet) -> None:
    # given a vendor that wants to be left alone for a moment, and whose allowance is whole in some minutes
    allowance = Allowance(tokens=0, tokens_reset_s=360)
    limited = RateLimited("slowly", "scripted", 429, 0.05, allowance=allowance)

    assert fleet.run().ask(Scripted(limited, "soon"), retries=1) == "soon"


def test_an_allowance_that_is_whole_again_only_in_hours_is_tried_before(fleet: Fleet) -> None:
    ask(fleet, Scripted(completion("the last", allowance=Allowance(tokens=0, tokens_reset_s=36_000))))

    assert wait_of(fleet, Scripted("never")).seconds <= 66
