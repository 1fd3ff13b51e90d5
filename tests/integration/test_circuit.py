"""The circuit of a provider: a dead one is left alone by the whole fleet, and one step at a time looks for life."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from orchestrator.admission import Ended, MustWait
from orchestrator.events import Event
from orchestrator.names import FLEET
from orchestrator.retry import Parked
from providers import ProviderError, Request
from providers.errors import (
    AuthFailed,
    Cancelled,
    ConnectionFailed,
    RateLimited,
    Refused,
    ServerError,
    TimedOut,
)
from tasks.kinds import KINDS
from tests.gateway.elsewhere import Elsewhere
from tests.gateway.fleet import QUESTION, Fleet, at_once, told
from tests.gateway.providers import Always, Backend, Held, OverHttp, Scripted

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

DOWN = ServerError("down", "scripted", 503)
COOLDOWN_S = 0.05
CLOCK_MS = 5  # a script looks at the clock once, and events are dated when they are written
BREAKER = ("breaker.opened", "breaker.half_open", "breaker.closed")


@pytest.fixture
def touchy(client: redis.Redis, tmp_path: Path) -> Fleet:
    """A fleet whose circuits open with the first failure, for a moment."""
    return Fleet(client, tmp_path, threshold=1, cooldown_s=COOLDOWN_S)


def far(*answers: object, endpoint: str = "far away") -> Scripted:
    return Scripted(*answers, endpoint=endpoint)


def cool_down() -> None:
    time.sleep(COOLDOWN_S + 0.02)


def open_circuit(fleet: Fleet) -> None:
    run = fleet.run()
    with pytest.raises(ServerError):
        run.ask(far(DOWN))
    assert told(run, "breaker.opened") != []


# --- the whole fleet --------------------------------------------------------------------------------------------------


def follow(events: list[Event], threshold: int, cooldown_s: float) -> int:
    """Check the course of a circuit event by event; how often it was opened."""
    state, failures, opened, opened_ms, prober = "closed", 0, 0, 0, None
    for event in events:
        match event.type:
            case "llm.request" if state == "half-open":
                assert prober is None, "a second probe at the same time"
                prober = event.step
            case "llm.request":
                assert state == "closed", "it was asked while its circuit was open"
                assert failures < threshold, "it was asked after the last failure that it may have"
            case "llm.response" if state == "closed":
                failures = 0 if event.get("success") else failures + 1
            case "breaker.opened":
                assert state == "half-open" or (state == "closed" and failures >= threshold)
                state, failures, opened, opened_ms, prober = "open", 0, opened + 1, event.at_ms, None
            case "breaker.half_open":
                assert state == "open"
                assert event.at_ms - opened_ms >= cooldown_s * 1000 - CLOCK_MS
                state = "half-open"
            case "breaker.closed":
                assert state == "half-open"
                state, failures, prober = "closed", 0, None
    return opened


def test_a_dead_provider_is_left_alone_by_all_processes_and_probed_one_at_a_time(
    client: redis.Redis,
    tmp_path: Path,
    backend: Callable[..., Backend],
    elsewhere: Callable[..., Elsewhere],
) -> None:
    # given 4 processes with 8 steps at once each, and a provider that is down
    settings = {"threshold": 5, "cooldown_s": 0.4}
    dead = True

    def reply(_: int) -> tuple[int, str]:
        threading.Event().wait(0.05)
        return (503, "down") if dead else (200, "the answer")

    server, fleet = backend(reply), Fleet(client, tmp_path, **settings)
    names = [f"s{n}" for n in range(32)]
    job = fleet.submit(*names, distinct=True, of_steps={"retries": 20})
    processes = [elsewhere(server.address, job, *names[n::4], fleet=settings) for n in range(4)]
    for process in processes:
        process.wait()

    # then no step failed, all gave their place back, and few calls were made
    assert job.events("step.failed") == []
    opened = follow(job.events(), **settings)
    assert opened >= 2
    assert len(server.seen) <= 5 + 31 + len(job.events("breaker.half_open"))

    # when it is back, and the steps run again
    dead = False
    job.again()
    worker = fleet.runner(lambda *_: OverHttp(server.address))
    sent = [job.sent[name] for name in names]
    ended = at_once(
        *(lambda one=one: worker.run(KINDS["prompt"], job.id, one.step, one.ticket) for one in sent)
    )

    # then one finds out, and all go on
    assert {one.outcome for one in ended} == {"done"}, ended
    follow(job.events(), **settings)
    assert len(job.events("breaker.closed")) == 1
    assert fleet.left() == set()


def test_calls_do_not_wait_for_each_other(fleet: Fleet) -> None:
    def reply(request: Request) -> str:
        threading.Event().wait(0.5)
        return "the answer"

    provider = Always(reply, endpoint="far away")
    runs = fleet.submit(*(f"s{n}" for n in range(64))).claim_all()
    began = time.monotonic()

    def ask(n: int) -> str:
        return runs[n].ask(provider, question=[{"role": "user", "content": f"question {n}"}])

    answers = at_once(*(lambda n=n: ask(n) for n in range(64)))

    assert answers == ["the answer"] * 64
    assert time.monotonic() - began < 8 * 0.5


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [DOWN, TimedOut("late"), ConnectionFailed("gone")], ids=lambda one: one.kind
)
def test_failures_in_a_row_open_the_circuit_at_the_threshold(
    client: redis.Redis, tmp_path: Path, error: ProviderError
) -> None:
    fleet = Fleet(client, tmp_path, threshold=3)
    run = fleet.run()
    provider = far(error, "good", error, error, error)

    for n in range(5):
        with suppress(type(error)):
            run.ask(provider, question=[{"role": "user", "content": str(n)}])

    assert run.job.types[-2:] == ["llm.response", "breaker.opened"]
    assert told(run, "breaker.opened") == [{"provider": "scripted", "endpoint": "far away", "cooldown_s": 30}]
    with pytest.raises(Parked) as parked:
        run.ask(provider)
    assert 25 < parked.value.seconds <= 33
    assert "circuit" in parked.value.reason


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429])
def test_a_provider_that_turns_a_call_down_lives(
    touchy: Fleet, backend: Callable[..., Backend], status: int
) -> None:
    provider, run = OverHttp(backend(lambda _: (status, "no")).address), touchy.run()

    for _ in range(3):
        with pytest.raises(ProviderError):
            run.ask(provider)

    assert len(told(run, "llm.response")) == 3
    assert run.job.events(*BREAKER) == []


@pytest.mark.parametrize("error", [Refused("no"), RateLimited("no"), AuthFailed("no"), Cancelled("no")])
def test_what_says_nothing_bad_of_a_provider_does_not_open_its_circuit(
    touchy: Fleet, error: ProviderError
) -> None:
    run = touchy.run()

    with pytest.raises(type(error)):
        run.ask(far(error))

    assert run.job.events(*BREAKER) == []


def test_a_cancelled_call_neither_counts_nor_resets_the_count(client: redis.Redis, tmp_path: Path) -> None:
    run = Fleet(client, tmp_path, threshold=2).run()
    provider = far(DOWN, Cancelled("enough"), DOWN)

    for _ in range(3):
        with pytest.raises(ProviderError):
            run.ask(provider)

    assert len(told(run, "breaker.opened")) == 1


def test_a_circuit_is_its_endpoints_own(touchy: Fleet) -> None:
    open_circuit(touchy)

    assert touchy.run().ask(far("good", endpoint="elsewhere")) == "good"


def test_with_an_open_circuit_the_next_provider_is_asked_at_once(client: redis.Redis, tmp_path: Path) -> None:
    fleet = Fleet(client, tmp_path, threshold=1, cooldown_s=30)
    open_circuit(fleet)
    run, first = fleet.run(), far("never")

    assert run.ask(first, far("good", endpoint="elsewhere")) == "good"

    assert [one["reason"] for one in told(run, "provider.fallback")] == ["circuit_open"]
    assert first.asked == []


# --- the probe --------------------------------------------------------------------------------------------------------


def test_a_probe_that_succeeds_closes_the_circuit_once(touchy: Fleet) -> None:
    open_circuit(touchy)
    run = touchy.run()

    assert run.ask(far("good")) == "good"

    assert [one.type for one in run.job.events(*BREAKER)] == ["breaker.half_open", "breaker.closed"]


def test_a_probe_that_is_turned_down_closes_the_circuit_too(touchy: Fleet) -> None:
    open_circuit(touchy)
    run = touchy.run()

    with pytest.raises(AuthFailed):
        run.ask(far(AuthFailed("no")))

    assert [one.type for one in run.job.events(*BREAKER)] == ["breaker.half_open", "breaker.closed"]


def test_a_probe_that_fails_opens_the_circuit_for_another_cooldown(touchy: Fleet) -> None:
    open_circuit(touchy)
    run = touchy.run()

    with pytest.raises(ServerError):
        run.ask(far(DOWN))

    opening = [one.type for one in run.job.events(*BREAKER)]
    assert opening == ["breaker.half_open", "breaker.opened"]
    second, began = touchy.run(), run.job.events("breaker.opened")[0].at_ms
    second.ask(far("good"))
    assert second.job.events("breaker.half_open")[0].at_ms - began >= COOLDOWN_S * 1000 - CLOCK_MS


@pytest.mark.parametrize("end", ["cancelled", "lost", "its job is cancelled", "parked"])
def test_a_probe_whose_step_ends_gives_the_probe_to_another(touchy: Fleet, end: str) -> None:
    # given a circuit with a probe that does not come back
    open_circuit(touchy)
    cool_down()
    held = Held(Cancelled("enough") if end == "cancelled" else "late")
    prober, other = touchy.run(), touchy.run()
    question = [{"role": "user", "content": "another question"}]
    with ThreadPoolExecutor(2) as pool:
        probing = pool.submit(prober.ask, far(held))
        assert held.asked.wait(10)
        waiting = pool.submit(other.ask, far("good"), question=question)

        # when its step ends
        match end:
            case "cancelled":
                held.go.set()
            case "lost":
                prober.job.lose()
            case "parked":
                prober.release(60)
            case _:
                touchy.state.cancel(prober.job.id, "enough")

        # then another probes and closes the circuit, and what comes late changes nothing
        assert waiting.result(10) == "good"
        held.go.set()
        probing.exception(10)
    assert len(other.job.events("breaker.closed")) == 1
    assert prober.job.events("breaker.closed", "breaker.opened") == []


def test_a_probe_that_hangs_holds_no_other_worker(touchy: Fleet) -> None:
    open_circuit(touchy)
    cool_down()
    held, prober, other = Held("late"), touchy.run(), touchy.run()
    with ThreadPoolExecutor(1) as pool:
        probing = pool.submit(prober.ask, far(held))
        assert held.asked.wait(10)
        name = f"{FLEET['CIRCUIT']}scripted at far away"
        touchy.client.hincrby(name, "probed_ms", -5000)
        began = time.monotonic()

        with pytest.raises(Parked) as parked:
            other.ask(far("never"), question=[{"role": "user", "content": "another question"}])

        assert time.monotonic() - began < 1.5, "it waited in its worker"
        assert 5 <= parked.value.seconds < 8
        held.go.set()
        assert probing.result(10) == "late"


@pytest.mark.parametrize("late", [DOWN, "good"], ids=["fails", "succeeds"])
def test_a_call_from_before_the_opening_changes_nothing_when_it_ends(touchy: Fleet, late: object) -> None:
    # given two calls under way, one of which fails and opens the circuit
    old, probe = Held(late), Held("good")
    before, prober = touchy.run(), touchy.run()
    with ThreadPoolExecutor(2) as pool:
        lasting = pool.submit(before.ask, far(old), question=[{"role": "user", "content": "old"}])
        assert old.asked.wait(10)
        open_circuit(touchy)
        cool_down()
        probing = pool.submit(prober.ask, far(probe), question=QUESTION)
        assert probe.asked.wait(10)

        # when the other ends during the probe
        old.go.set()
        lasting.exception(10)

        # then the probe alone decides
        assert before.job.events(*BREAKER) == []
        probe.go.set()
        assert probing.result(10) == "good"
    assert [one.type for one in prober.job.events(*BREAKER)] == ["breaker.half_open", "breaker.closed"]


def test_a_call_from_before_the_opening_that_fails_after_the_closing_does_not_count(touchy: Fleet) -> None:
    old, before = Held(DOWN), touchy.run()
    with ThreadPoolExecutor(1) as pool:
        lasting = pool.submit(before.ask, far(old), question=[{"role": "user", "content": "old"}])
        assert old.asked.wait(10)
        open_circuit(touchy)
        touchy.run().ask(far("good"))
        old.go.set()
        lasting.exception(10)

    run = touchy.run()
    run.ask(far("good"), question=[{"role": "user", "content": "new"}])
    assert before.job.events(*BREAKER) == run.job.events(*BREAKER) == []


def test_who_counted_the_last_failure_and_died_leaves_no_open_door(
    touchy: Fleet, client: redis.Redis
) -> None:
    # given a circuit that has failed often enough, and nobody who says that it is open
    open_circuit(touchy)
    name = f"{FLEET['CIRCUIT']}scripted at far away"
    client.hset(name, mapping={"state": "closed", "until_ms": 10**15})

    with pytest.raises(Parked):
        touchy.run().ask(far("good"))

    # then it is probed when its time has come
    client.hset(name, "until_ms", 1)
    run = touchy.run()
    assert run.ask(far("good")) == "good"
    assert [one.type for one in run.job.events(*BREAKER)] == ["breaker.half_open", "breaker.closed"]


def test_who_says_late_that_the_circuit_is_open_neither_repeats_it_nor_interrupts_a_probe(
    touchy: Fleet,
) -> None:
    # given three calls that have failed, of which one has said that the circuit is open
    provider, request, admission = far(), Request(QUESTION), touchy.admission
    first, second, third = (touchy.run() for _ in range(3))
    grants = {id(run): admission.admit(run.holder, provider, request, []) for run in (first, second, third)}
    for run in (first, second, third):
        admission.settle(run.holder, provider, grants[id(run)], Ended("failure", 0.1))
    admission.turn(first.holder, provider, grants[id(first)], "open")

    # when another says so at once, and the last one during a probe
    admission.turn(second.holder, provider, grants[id(second)], "open")
    cool_down()
    assert admission.admit(touchy.run().holder, provider, request, []).state == "half-open"
    admission.turn(third.holder, provider, grants[id(third)], "open")

    # then it was told once, and the probe has the circuit to itself
    assert [len(run.job.events("breaker.opened")) for run in (first, second, third)] == [1, 0, 0]
    with pytest.raises(MustWait, match="being probed"):
        admission.admit(touchy.run().holder, provider, request, [])
