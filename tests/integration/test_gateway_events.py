"""What the gateway tells of each call, in which order, and what it never tells."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import redis

from orchestrator.cache import Cache
from orchestrator.events import Act, Event
from orchestrator.gateway import Asker, Gateway, ready_providers
from orchestrator.lease import Heartbeat
from orchestrator.models import JobSpec
from orchestrator.settings import Settings
from orchestrator.state import Dispatch, State
from orchestrator.stream import read_all
from providers import Completion, Message, Provider, ProviderError, Request, Tool, Usage
from providers.errors import (
    AuthFailed,
    InvalidAnswer,
    NotReady,
    QuotaExceeded,
    RateLimited,
    ServerError,
    TimedOut,
)
from providers.simulated import SimulatedProvider
from tasks.kinds import KINDS
from tasks.runner import Ended, Runner
from tasks.step import Output, StepError, StepKind

JOB = "job_0123456789ab"
PROMPT = "xyzzy-the-prompt"
COMPLETION = "plugh-the-completion"
QUESTION: list[Message] = [{"role": "user", "content": PROMPT}]
NUMBER = Tool(
    "submit",
    "Hand it in.",
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
)


class Scripted(Provider):
    """Gives prepared answers, one a call; an error among them is raised."""

    name: ClassVar[str] = "scripted"

    def __init__(self, *answers: str | ProviderError, model: str = "m") -> None:
        super().__init__(model)
        self.left = list(answers)

    def complete(self, request: Request) -> Completion:
        answer = self.left.pop(0)
        if isinstance(answer, ProviderError):
            raise answer
        return Completion(answer, Usage(11, 7), "tool" if request.tool else "stop", "m-2026-01-01")


class Other(Scripted):
    name: ClassVar[str] = "ollama"


class Told:
    """Keeps what the gateway tells."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any], str]] = []

    def __call__(self, *acts: Act) -> None:
        self.events += [(act.type, dict(act.data or {}), act.level) for act in acts]

    @property
    def types(self) -> list[str]:
        return [kind for kind, _, _ in self.events]

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [data for found, data, _ in self.events if found == kind]

    def level(self, kind: str) -> list[str]:
        return [level for found, _, level in self.events if found == kind]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def gateway(client: redis.Redis, tmp_path: Path, told: Told) -> Callable[..., Gateway]:
    """Makes a gateway over providers, all on one cache."""
    cache = Cache(client, tmp_path, 1000)

    def make(*providers: Provider) -> Gateway:
        return Gateway(cache, Asker("prompt", "v1", providers, {"temperature": 0}, told, threading.Event()))

    return make


def good(text: str) -> str:
    if "good" not in text:
        raise ValueError("it is not good")
    return text


# --- sequences --------------------------------------------------------------------------------------------------------


def test_a_miss_tells_of_the_miss_the_request_and_the_response(
    gateway: Callable[..., Gateway], told: Told
) -> None:
    gateway(Scripted(f"good {COMPLETION}")).generate(QUESTION, good)

    assert told.types == ["cache.miss", "llm.request", "llm.response"]
    [response] = told.data("llm.response")
    duration = response.pop("duration_s")
    assert duration >= 0
    assert response == {
        "key": told.data("cache.miss")[0]["key"],
        "provider": "scripted",
        "model": "m-2026-01-01",
        "success": True,
        "finish_reason": "stop",
        "tokens_in": 11,
        "tokens_out": 7,
        "cost_usd": None,
    }


def test_a_hit_tells_of_nothing_else_and_names_the_layer(
    client: redis.Redis, gateway: Callable[..., Gateway], told: Told
) -> None:
    provider = Scripted("good")
    gateway(provider).generate(QUESTION, good)
    told.events.clear()

    gateway(provider).generate(QUESTION, good)
    client.flushall()
    gateway(provider).generate(QUESTION, good)

    assert told.types == ["cache.hit", "cache.hit"]
    assert [data["layer"] for data in told.data("cache.hit")] == ["redis", "disk"]
    assert {data["model"] for data in told.data("cache.hit")} == {"m-2026-01-01"}


def test_the_hit_has_the_key_of_the_miss(gateway: Callable[..., Gateway], told: Told) -> None:
    provider = Scripted("good")
    gateway(provider).generate(QUESTION, good)
    gateway(provider).generate(QUESTION, good)

    assert told.data("cache.hit")[0]["key"] == told.data("cache.miss")[0]["key"]


@pytest.mark.parametrize(
    "error", [TimedOut("late", "scripted"), ServerError("down", "scripted", 500)], ids=lambda one: one.kind
)
def test_an_error_ends_its_request_with_a_response_that_says_so(
    gateway: Callable[..., Gateway], told: Told, error: ProviderError
) -> None:
    with pytest.raises(type(error)):
        gateway(Scripted(error)).generate(QUESTION, good)

    assert told.types == ["cache.miss", "llm.request", "llm.response"]
    [response] = told.data("llm.response")
    assert (response["success"], response["finish_reason"]) == (False, "error")
    assert response["error"] == error.kind
    assert response["tokens_out"] is None
    assert told.level("llm.response") == ["WARN"]


@pytest.mark.parametrize(
    "error",
    [AuthFailed("no", "scripted", 401), QuotaExceeded("spent", "scripted", 402)],
    ids=lambda e: e.kind,
)
def test_a_provider_that_is_not_available_falls_back_to_the_next(
    gateway: Callable[..., Gateway], told: Told, error: ProviderError
) -> None:
    answer = gateway(Scripted(error), Other("good")).generate(QUESTION, good)

    assert answer == "good"
    assert told.types == [
        "cache.miss",
        "llm.request",
        "llm.response",
        "provider.fallback",
        "cache.miss",
        "llm.request",
        "llm.response",
    ]
    assert told.data("provider.fallback") == [{"from": "scripted", "to": "ollama", "reason": error.kind}]
    assert told.level("provider.fallback") == ["WARN"]
    assert told.data("llm.response")[1]["cost_usd"] == 0.0
    first, second = told.data("cache.miss")
    assert first["key"] != second["key"]


def test_an_error_of_the_last_provider_is_the_callers(gateway: Callable[..., Gateway], told: Told) -> None:
    with pytest.raises(QuotaExceeded):
        gateway(Scripted(AuthFailed("no")), Other(QuotaExceeded("spent"))).generate(QUESTION, good)

    assert told.types.count("provider.fallback") == 1


def test_an_answer_that_cannot_be_read_does_not_fall_back(
    gateway: Callable[..., Gateway], told: Told
) -> None:
    with pytest.raises(InvalidAnswer):
        gateway(Scripted("bad", "worse"), Other("good")).generate(QUESTION, good)

    assert "provider.fallback" not in told.types


def test_a_second_question_is_a_request_of_its_own_under_the_first_ones_key(
    gateway: Callable[..., Gateway], told: Told
) -> None:
    gateway(Scripted("bad", "good")).generate(QUESTION, good)

    assert told.types == ["cache.miss", "llm.request", "llm.response", "llm.request", "llm.response"]
    assert [data["messages"] for data in told.data("llm.request")] == [1, 3]
    assert len({data["key"] for _, data, _ in told.events}) == 1


@pytest.mark.parametrize("answers", [["good"], ["bad", "good"], ["bad", "bad"], [ServerError("x")]])
def test_every_request_is_followed_by_its_response(
    gateway: Callable[..., Gateway], told: Told, answers: list[str | ProviderError]
) -> None:
    with suppress(ProviderError):
        gateway(Scripted(*answers)).generate(QUESTION, good)

    calls = [kind for kind in told.types if kind.startswith("llm.")]
    assert calls == ["llm.request", "llm.response"] * (len(calls) // 2)


def test_a_provider_that_breaks_its_promise_still_has_its_request_answered(
    gateway: Callable[..., Gateway], told: Told
) -> None:
    # given a provider that raises what it should not
    class Broken(Provider):
        name: ClassVar[str] = "broken"

        def complete(self, request: Request) -> Completion:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        gateway(Broken()).generate(QUESTION, good)

    assert told.types == ["cache.miss", "llm.request", "llm.response"]


# --- which providers there are ----------------------------------------------------------------------------------------


def create(name: str, model: str | None) -> Provider:
    if name == "scripted":
        raise NotReady("no key", name)
    return Other(model=model or "its own default")


def test_the_model_is_the_first_providers_alone() -> None:
    [only] = ready_providers(["scripted", "ollama"], "m-of-scripted", create)
    assert (only.name, only.model) == ("ollama", "its own default")

    [first] = ready_providers(["ollama"], "m-of-ollama", create)
    assert first.model == "m-of-ollama"


def test_when_no_provider_is_ready_the_first_says_why() -> None:
    with pytest.raises(NotReady, match="no key"):
        ready_providers(["scripted"], None, create)


# --- what reaches the event stream ------------------------------------------------------------------------------------


Make = Callable[[str, str | None], Provider]


@pytest.fixture
def runner(client: redis.Redis, state: State, tmp_path: Path) -> Callable[[Make], Runner]:
    """Makes a worker's runner over these providers, on real Redis."""
    settings = Settings(_env_file=None, orch_lease_s=30, provider_max_retries=3)
    cache, heartbeat = Cache(client, tmp_path, 100), Heartbeat(state, 30)
    return lambda make: Runner(state, cache, heartbeat, make, settings)


@pytest.fixture
def submit_step(state: State) -> Callable[..., Dispatch]:
    """Submits a job with one step; workers die with it so many times before it is returned."""

    def submit(deaths: int = 0, **step: Any) -> Dispatch:
        only = {"id": "only", "prompt": PROMPT, **step}
        spec = JobSpec.model_validate(
            {
                "project": "p",
                "task_description": "anything",
                "provider": "scaffold",
                "model": "model-of-the-job",
                "steps": [only],
            }
        )
        fields = {
            "spec": spec.model_dump_json(),
            "source": "",
            "plan": '[["only","prompt",[]]]',
            "driver": "ready",
            "concurrency": 1,
            "timeout_ms": 900_000,
            "ttl_s": 100,
        }
        about = {"steps": [{"id": "only", "kind": "prompt", "needs": []}]}
        [sent] = state.submit(JOB, fields, {}, about)
        for _ in range(deaths):
            state.claim(JOB, "only", sent.ticket, "dead", -1, "gone:1")
            [sent] = state.recover(JOB, calm=True, grace_s=1000)
        return sent

    return submit


@pytest.fixture
def run_step(
    client: redis.Redis, runner: Callable[[Make], Runner], submit_step: Callable[..., Dispatch]
) -> Callable[..., tuple[Ended, list[Event]]]:
    """Runs the one step of a job on real Redis; returns how it ended and the job's events."""

    def run(make: Make, kind: StepKind = KINDS["prompt"], **step: Any) -> tuple[Ended, list[Event]]:
        sent = submit_step(**step)
        ended = runner(make).run(kind, JOB, sent.step, sent.ticket)
        return ended, list(read_all(client, JOB))

    return run


def texts(events: Sequence[Event]) -> str:
    return "".join(event.to_line() for event in events)


def test_a_step_that_succeeds_leaves_neither_its_prompt_nor_its_answer_in_events(
    run_step: Callable[..., tuple[Ended, list[Event]]],
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
    run_step: Callable[..., tuple[Ended, list[Event]]], answer: str
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
    run_step: Callable[..., tuple[Ended, list[Event]]],
) -> None:
    # given a step whose data come from a model that was cut in the middle of an emoji
    kind = StepKind("prompt", lambda _: Output(text="x", data={"next": ["run \ud83d"]}), "v1")

    ended, events = run_step(lambda *_: Scripted(), kind)

    # then it is done or failed, but not left for its lease to run out
    assert ended.outcome in ("done", "failed")
    assert events[-1].type in ("job.succeeded", "job.failed")


def test_half_a_surrogate_pair_in_an_error_ends_the_step(
    run_step: Callable[..., tuple[Ended, list[Event]]],
) -> None:
    ended, events = run_step(lambda *_: Scripted(RateLimited("come back \ud83d", "scripted")), retries=0)

    assert ended.outcome == "failed"
    assert events[-1].type == "job.failed"


def test_half_a_surrogate_pair_in_an_error_that_may_be_retried_parks_the_step(
    run_step: Callable[..., tuple[Ended, list[Event]]],
) -> None:
    # a rate limit fails a step only when its retries are used up: until then it is parked
    ended, events = run_step(lambda *_: Scripted(RateLimited("come back \ud83d", "scripted", 429, 60.0)))

    assert ended.outcome == "back"
    assert (events[-1].type, events[-1].step) == ("step.retrying", "only")
    assert events[-1].get("wait_ms") == 60_000
    assert events[-1].get("tries") == 1


def test_a_step_with_a_provider_of_its_own_does_not_get_the_jobs_model(
    run_step: Callable[..., tuple[Ended, list[Event]]],
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
    run_step: Callable[..., tuple[Ended, list[Event]]],
) -> None:
    def make(name: str, model: str | None) -> Provider:
        if name == "anthropic":
            raise NotReady("no key", name)
        return SimulatedProvider(model)

    ended, events = run_step(make, provider=["anthropic", "simulated"])

    assert ended.outcome == "done"
    [fallback] = [event for event in events if event.type == "provider.fallback"]
    assert (fallback.get("from"), fallback.get("to")) == ("anthropic", "simulated")


# --- what becomes of a step ----------------------------------------------------------------------------------------


def asleep(step: Any) -> Output:
    """A step that only ends when it is told to."""
    step.gateway._asker.cancelled.wait(30)
    raise StepError("cancelled", "somebody wanted it so")


ASLEEP = StepKind("prompt", asleep, "v1")


def nobody(name: str, model: str | None) -> Provider:
    return Scripted(model=model or "m")


def test_a_rate_limited_step_is_parked_for_longer_each_time_until_its_retries_are_used_up(
    client: redis.Redis,
    state: State,
    runner: Callable[[Make], Runner],
    submit_step: Callable[..., Dispatch],
) -> None:
    # given a provider that says "too many requests" without saying until when, and a worker that may retry thrice
    worker = runner(lambda *_: Scripted(RateLimited("too many", "scripted", 429)))
    sent, outcomes = submit_step(), []

    # when the step runs each time it is due
    for _ in range(4):
        outcomes.append(worker.run(KINDS["prompt"], JOB, sent.step, sent.ticket).outcome)
        client.zadd(f"orch:{{{JOB}}}:parked", {"only": 1}, xx=True)
        sent = next(iter(state.recover(JOB, calm=True, grace_s=1000)), sent)

    # then
    assert outcomes == ["back", "back", "back", "failed"]
    events = list(read_all(client, JOB))
    retries = [event for event in events if event.type == "step.retrying"]
    assert [(event.get("wait_ms"), event.get("tries")) for event in retries] == [
        (1000, 1),
        (2000, 2),
        (4000, 3),
    ]
    assert all("too many" in event.get("reason") for event in retries)
    assert events[-1].get("failures")[0]["kind"] == "rate_limit"


def test_a_provider_that_says_when_to_come_back_is_believed(
    run_step: Callable[..., tuple[Ended, list[Event]]],
) -> None:
    ended, events = run_step(lambda *_: Scripted(RateLimited("too many", "scripted", 429, 600.0)))

    assert ended.outcome == "back"
    assert events[-1].get("wait_ms") == 600_000


@pytest.mark.parametrize(
    "error", [ServerError("down"), TimedOut("late"), AuthFailed("no"), StepError("qa", "bad")]
)
def test_an_error_that_no_waiting_helps_fails_the_step_at_once(
    run_step: Callable[..., tuple[Ended, list[Event]]], error: ProviderError | StepError
) -> None:
    def run(_: Any) -> Output:
        raise error

    ended, events = run_step(nobody, StepKind("prompt", run, "v1"))

    assert (ended.outcome, ended.message) == ("failed", str(error))
    assert events[-1].get("failures") == [{"step": "only", "kind": error.kind, "message": str(error)}]


def test_a_step_that_is_told_to_end_by_its_time_limit_fails_with_it(
    run_step: Callable[..., tuple[Ended, list[Event]]],
) -> None:
    ended, events = run_step(nobody, ASLEEP, timeout_s=0.2)

    assert ended.outcome == "failed"
    [failure] = events[-1].get("failures")
    assert (failure["kind"], "0.2 s" in failure["message"]) == ("timeout", True)


@pytest.mark.parametrize("how", ["shut down", "cancelled"])
def test_a_running_step_ends_when_its_worker_has_to_go_or_its_job_is_cancelled(
    client: redis.Redis,
    state: State,
    runner: Callable[[Make], Runner],
    submit_step: Callable[..., Dispatch],
    how: str,
) -> None:
    # given a step that runs
    worker, sent = runner(nobody), submit_step()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run, ASLEEP, JOB, sent.step, sent.ticket)
        eventually(lambda: bool(worker.heartbeat.held()))

        # when
        if how == "shut down":
            worker.heartbeat.held()[0].stop("shutdown")
        else:
            state.cancel(JOB, "enough")
        ended = running.result(5)

    # then it was given back for another worker, or nobody wants it
    if how == "shut down":
        assert (ended.outcome, [one.step for one in ended.ready]) == ("back", ["only"])
        assert state.job(JOB)["status"] == "running"
    else:
        assert ended.outcome == "void"
        assert state.job(JOB)["status"] == "cancelled"
    assert worker.heartbeat.held() == []


# --- a step that workers died with ------------------------------------------------------------------------------------


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lone_processes() -> list[psutil.Process]:
    """Our processes that run one step each."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if one.cmdline()[1:3] == ["-m", "tasks.alone"]:
                found.append(one)
    return found


@pytest.fixture
def here(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment that a worker's own processes get; none of them outlives the test."""
    monkeypatch.setenv("ORCH_REDIS_URL", redis_url)
    monkeypatch.setenv("ORCH_RUNS_DIR", str(tmp_path))
    yield
    assert lone_processes() == []


SIMULATED = {"provider": "simulated", "deaths": 2}


@pytest.mark.usefixtures("here")
def test_a_suspect_step_runs_in_a_process_of_its_own_and_its_result_counts(
    client: redis.Redis, run_step: Callable[..., tuple[Ended, list[Event]]]
) -> None:
    def not_here(*_: Any) -> Provider:
        raise AssertionError("it ran in this process")

    ended, events = run_step(not_here, **SIMULATED)

    assert ended.outcome == "done", (ended, events)
    assert events[-1].type == "job.succeeded"
    assert State(client).result(JOB, "only") is not None


@pytest.mark.usefixtures("here")
def test_a_suspect_step_is_stopped_by_its_time_limit(
    run_step: Callable[..., tuple[Ended, list[Event]]],
) -> None:
    ended, events = run_step(nobody, timeout_s=2, options={"latency_s": 60}, **SIMULATED)

    assert ended.outcome == "failed"
    assert events[-1].get("failures")[0]["kind"] == "timeout"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("number", "outcome", "status"),
    [(signal.SIGKILL, "failed", "failed"), (signal.SIGTERM, "back", "running")],
    ids=["killed", "asked to end"],
)
def test_a_suspect_step_whose_own_process_dies_fails_unless_the_process_was_asked_to_end(
    client: redis.Redis,
    state: State,
    runner: Callable[[Make], Runner],
    submit_step: Callable[..., Dispatch],
    number: signal.Signals,
    outcome: str,
    status: str,
) -> None:
    sent = submit_step(options={"latency_s": 60}, **SIMULATED)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runner(nobody).run, KINDS["prompt"], JOB, sent.step, sent.ticket)
        eventually(lambda: any(event.type == "llm.request" for event in read_all(client, JOB)))
        [process] = lone_processes()

        process.send_signal(number)
        ended = running.result(10)

    assert ended.outcome == outcome
    assert state.job(JOB)["status"] == status
    if outcome == "failed":
        [failure] = list(read_all(client, JOB))[-1].get("failures")
        assert (failure["kind"], "137" in failure["message"]) == ("poison", True)


@pytest.mark.usefixtures("here")
def test_the_process_of_a_suspect_step_ends_when_its_job_is_cancelled(
    client: redis.Redis,
    state: State,
    runner: Callable[[Make], Runner],
    submit_step: Callable[..., Dispatch],
) -> None:
    sent = submit_step(options={"latency_s": 60}, **SIMULATED)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runner(nobody).run, KINDS["prompt"], JOB, sent.step, sent.ticket)
        eventually(lambda: any(event.type == "llm.request" for event in read_all(client, JOB)))

        state.cancel(JOB, "enough")

        assert running.result(5).outcome == "void"
