"""What a running step holds of the fleet's is given back with it, however it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from orchestrator.names import FLEET
from orchestrator.records import Failure
from providers import ProviderError
from providers.config import Config
from providers.errors import AuthFailed, Cancelled, ServerError
from tests.gateway.elsewhere import Elsewhere
from tests.gateway.fleet import Fleet, Run
from tests.gateway.providers import Backend, Held, Scripted, completion

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

BUDGET = {"tokens": 100_000}


def past_its_deadline(run: Run) -> None:
    run.job.fleet.client.hset(f"orch:{{{run.job.id}}}", "deadline_ms", 1)
    run.job.again(at_once=False)


ENDS: dict[str, Callable[[Run], object]] = {
    "succeeds": lambda run: run.succeed(),
    "fails": lambda run: run.fail(),
    "is given back": lambda run: run.release(),
    "is parked": lambda run: run.release(60),
    "is lost": lambda run: run.job.lose(),
    "has its job cancelled": lambda run: run.job.fleet.state.cancel(run.job.id, "enough"),
    "has its job aborted": lambda run: run.job.fleet.state.abort(
        run.job.id, Failure(step=None, kind="timeout", message="too long")
    ),
    "has its job past its deadline": past_its_deadline,
    "has its job resumed by force": lambda run: run.job.fleet.state.resume(
        run.job.id, "ready", {}, force=True
    ),
}
ANSWERS = {
    "is answered": completion("late"),
    "fails": ServerError("down", "scripted", 503),
    "is turned down": AuthFailed("no", "scripted", 401),
    "is cancelled": Cancelled("enough"),
}


@pytest.fixture
def limits(tmp_path: Path) -> Config:
    path = tmp_path / "models.toml"
    path.write_text(
        "[scripted]\nlimits = { concurrency = 4, requests_per_minute = 99 }\n"
        "[openai]\nlimits = { concurrency = 4, requests_per_minute = 99 }\n"
    )
    return Config(models_file=path)


@pytest.fixture
def half_open(client: redis.Redis, tmp_path: Path) -> Fleet:
    """A fleet in which the next call to a provider is a probe."""
    return Fleet(client, tmp_path, threshold=1, cooldown_s=0.001)


def break_circuit(fleet: Fleet, endpoint: str) -> None:
    fleet.client.hset(f"{FLEET['CIRCUIT']}{endpoint}", mapping={"state": "open", "until_ms": 1, "epoch": 1})


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=[f"its call {one}" for one in ANSWERS])
@pytest.mark.parametrize("end", ENDS.values(), ids=[f"the step {one}" for one in ENDS])
def test_a_step_leaves_nothing_behind_however_it_and_its_call_end(
    half_open: Fleet, limits: Config, end: Callable[[Run], object], answer: object
) -> None:
    # given a step whose call holds all that there is to hold
    held, job = Held(answer), half_open.submit("a", "b", budget=BUDGET)
    break_circuit(half_open, "scripted at far away")
    run = job.claim("a")
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(run.ask, Scripted(held, endpoint="far away", config=limits))
        assert held.asked.wait(10)
        assert len(half_open.left()) == 5, half_open.left()

        # when the step ends before its call
        end(run)

        # then nothing is held any more, and what comes late takes hold of nothing
        assert half_open.left() == set()
        held.go.set()
        error = calling.exception(10)
    assert error is None or isinstance(error, ProviderError), error
    assert half_open.left() == set()
    assert half_open.client.hgetall(FLEET["HELD"]) == {}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=[f"its call {one}" for one in ANSWERS])
def test_a_call_that_ends_before_its_step_leaves_nothing_but_what_the_step_gives_back(
    half_open: Fleet, limits: Config, answer: object
) -> None:
    break_circuit(half_open, "scripted at far away")
    run = half_open.run(budget=BUDGET)

    try:
        run.ask(Scripted(answer, endpoint="far away", config=limits))
    except ProviderError:
        run.fail()
    else:
        run.succeed()

    assert half_open.left() == set()


def test_a_process_that_is_killed_gives_everything_back_when_its_lease_has_run_out(
    half_open: Fleet,
    limits: Config,
    backend: Callable[..., Backend],
    elsewhere: Callable[..., Elsewhere],
) -> None:
    # given a process in a call
    asked, go = threading.Event(), threading.Event()

    def reply(_: int) -> tuple[int, str]:
        asked.set()
        go.wait(30)
        return 200, "late"

    server, job = backend(reply), half_open.submit(budget=BUDGET)
    break_circuit(half_open, f"openai at {server.address}")
    process = elsewhere(server.address, job, config=limits, fleet={"threshold": 1, "cooldown_s": 1})
    assert asked.wait(30)
    assert len(half_open.left()) == 5

    # when it is killed
    process.kill()
    assert len(half_open.left()) == 5, "nobody knows yet"
    job.lose()

    # then
    assert half_open.left() == set()
    go.set()


def test_everything_that_the_gateway_leaves_in_redis_is_bounded_or_expires(
    half_open: Fleet, limits: Config
) -> None:
    run = half_open.run(budget=BUDGET, cache="refresh")
    run.ask(Scripted("good", endpoint="far away", config=limits))
    run.succeed()

    lasting = {key.decode() for key in half_open.client.scan_iter() if half_open.client.ttl(key) == -1}

    names = ("JOBS", "TICKETS", "SLOTS", "STOPS", "CACHED", "CACHED_SIZES", "CACHED_BYTES", "CIRCUITS")
    bounded = {FLEET[name] for name in names} | {f"{FLEET['CIRCUIT']}scripted at far away"}
    assert lasting <= bounded
