"""Budgets: a job stops before it would spend more than it may, however many of its steps ask at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.admission import BudgetExceeded
from orchestrator.celery_app import make_app
from orchestrator.jobs import Jobs
from orchestrator.models import Budget
from orchestrator.names import JobKeys
from orchestrator.retry import Parked
from orchestrator.state import Dispatch
from providers import Completion, Message, ProviderError, Request
from providers.config import Config
from providers.errors import Cancelled, ConnectionFailed, ServerError, TimedOut
from providers.simulated import SimulatedProvider
from tasks.kinds import KINDS
from tests.gateway.fleet import Fleet, Job, at_once, told
from tests.gateway.providers import Always, Held, Scripted, completion

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

USD_IN, USD_OUT = 1.0, 4.0


@pytest.fixture
def priced(tmp_path: Path) -> Config:
    """A models file with a price for the model of these tests."""
    path = tmp_path / "models.toml"
    price = f"{{ input = {USD_IN}, output = {USD_OUT} }}"
    path.write_text(f"[scripted]\nmodels.m.usd_per_million_tokens = {price}\n")
    return Config(models_file=path)


class Spender:
    """Takes as many tokens as it is allowed, and counts them."""

    def __init__(self) -> None:
        self.tokens = 0
        self.usd = 0.0

    def __call__(self, request: Request) -> Completion:
        taken_in = sum(len(message["content"]) for message in request.messages) // 4
        taken_out = request.options["max_tokens"]
        self.tokens += taken_in + taken_out
        self.usd += (taken_in * USD_IN + taken_out * USD_OUT) / 1_000_000
        return completion("x", taken_in, taken_out)


def question(number: int) -> list[Message]:
    return [{"role": "user", "content": f"question {number:4}"}]


def spent(job: Job) -> tuple[int, float]:
    fields = job.fleet.state.job(job.id)
    return int(fields.get("spent_tokens", 0)), float(fields.get("spent_usd", 0))


def reserved(job: Job) -> int:
    return int(job.fleet.client.hlen(f"{JobKeys(job.id).job}:reserved"))


# --- never more -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"tokens": 1000}, {"usd": 0.004}, {"tokens": 1000, "usd": 0.002}])
def test_steps_that_ask_at_once_never_spend_more_than_there_is(
    fleet: Fleet, priced: Config, budget: dict[str, Any]
) -> None:
    # given more steps than the budget can pay
    spender = Spender()
    provider = Always(spender, config=priced)
    job = fleet.submit(*(f"s{n}" for n in range(24)), budget=budget)
    runs = job.claim_all()

    def ask(number: int) -> str:
        return runs[number].ask(provider, question=question(number), options={"max_tokens": 100})

    ended = at_once(*(lambda n=n: ask(n) for n in range(24)))

    # then some are answered, nobody else is, and the sum as the provider has it is within the budget
    answered = [one for one in ended if one == "x"]
    others = [one for one in ended if one != "x"]
    assert answered
    assert others
    assert all(isinstance(one, BudgetExceeded | Parked) for one in others), others
    assert spender.tokens <= budget.get("tokens", 10**9)
    assert spender.usd <= budget.get("usd", 10**9)
    assert spent(job) == (spender.tokens, pytest.approx(spender.usd))
    assert reserved(job) == 0
    # and it was not thrifty either
    assert spender.tokens > 0.8 * budget.get("tokens", 0) or spender.usd > 0.8 * budget.get("usd", 0)


def test_an_answer_is_cut_to_what_is_left(fleet: Fleet, priced: Config) -> None:
    provider = Always(Spender(), config=priced)
    run = fleet.run(budget={"tokens": 300})

    run.ask(provider, question=question(1), options={"max_tokens": 8000})

    [asked] = provider.asked
    estimate = provider.estimate(asked).tokens_in or 0
    assert asked.options["max_tokens"] == 300 - estimate


def test_an_answer_that_what_is_left_does_not_suffice_for_is_not_used(fleet: Fleet, priced: Config) -> None:
    run = fleet.run(budget={"tokens": 300})
    half = completion("half of", 10, 250, finish_reason="length")

    with pytest.raises(BudgetExceeded, match="whole answer"):
        run.ask(Scripted(half, config=priced), options={"max_tokens": 8000})

    assert [event.level for event in run.job.events("budget.exceeded")] == ["ERROR"]
    assert spent(run.job)[0] == 260


def test_an_answer_that_has_its_own_length_is_continued_as_ever(fleet: Fleet, priced: Config) -> None:
    run = fleet.run(budget={"tokens": 10_000})
    half = completion("half and ", 10, 100, finish_reason="length")

    assert run.ask(Scripted(half, "half", config=priced), options={"max_tokens": 100}) == "half and half"


def test_a_provider_that_does_not_keep_to_a_length_is_not_asked_for_less(fleet: Fleet) -> None:
    run, provider = fleet.run(budget={"tokens": 50}), SimulatedProvider()

    with pytest.raises(BudgetExceeded):
        run.ask(provider, options={"tokens_out": 64})

    assert run.job.events("llm.request") == []


def test_a_call_waits_while_others_have_the_rest_and_goes_on_when_they_took_less(
    fleet: Fleet, priced: Config
) -> None:
    held = Held(completion("the first", 10, 10))
    provider = Scripted(held, "the second", config=priced)
    first, second = fleet.submit("a", "b", budget={"tokens": 1000}).claim_all()
    options = {"max_tokens": 900}
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.ask, provider, question=question(1), options=options)
        assert held.asked.wait(10)
        other = pool.submit(second.ask, provider, question=question(2), options=options)

        held.go.set()

        assert (one.result(10), other.result(10)) == ("the first", "the second")
    assert second.job.events("budget.exceeded") == []


@pytest.mark.parametrize(
    ("tokens_in", "tokens_out", "taken"), [(None, None, 128), (20, None, 120), (None, 30, 58), (20, 30, 50)]
)
def test_what_a_vendor_does_not_count_is_taken_to_be_what_was_set_aside(
    fleet: Fleet, priced: Config, tokens_in: int | None, tokens_out: int | None, taken: int
) -> None:
    run = fleet.run(budget={"tokens": 5000, "usd": 1})
    provider = Scripted(completion("good", tokens_in, tokens_out), config=priced)
    text = "x" * 60  # 28 tokens by our estimate

    run.ask(provider, question=[{"role": "user", "content": text}], options={"max_tokens": 100})

    tokens, usd = spent(run.job)
    assert tokens == taken
    assert usd > 0
    # though nobody claims to know it
    [response] = told(run, "llm.response")
    assert (response["tokens_in"], response["tokens_out"]) == (tokens_in, tokens_out)
    assert (response["cost_usd"] is None) is (None in (tokens_in, tokens_out))


# --- when it is used up -----------------------------------------------------------------------------------------------


def test_a_step_over_the_budget_fails_and_its_job_goes_on_when_the_budget_is_raised(
    fleet: Fleet, redis_url: str
) -> None:
    # given a job that has spent what it may
    job = fleet.submit("a", "b", distinct=True, budget={"tokens": 150}, options={"max_tokens": 80})
    provider = Always(completion("good", 20, 80))
    worker = fleet.runner(lambda *_: provider)

    def run(step: str) -> str:
        return worker.run(KINDS["prompt"], job.id, step, job.sent[step].ticket).outcome

    assert run("a") == "done"
    assert run("b") == "failed"

    # then it says so
    [exceeded] = job.events("budget.exceeded")
    assert (exceeded.level, exceeded.step) == ("ERROR", "b")
    assert (exceeded.get("tokens"), exceeded.get("spent_tokens")) == (150, 100)
    assert job.events()[-1].type == "job.failed"
    [failure] = job.events()[-1].get("failures")
    assert (failure["step"], failure["kind"]) == ("b", "budget")
    assert "100 of 150 tokens" in failure["message"]

    # when it may spend more
    app = make_app(redis_url)
    Jobs(fleet.client, app, 100).resume(job.id, budget=Budget(tokens=400))
    app.close()
    record = json.loads(fleet.client.hget(JobKeys(job.id).steps, "b") or "{}")
    job.sent["b"] = Dispatch("b", "prompt", record["ticket"])

    # then it goes on, and what was spent stays spent
    assert run("b") == "done"
    assert job.events()[-1].type == "job.succeeded"
    assert spent(job)[0] == 200


def test_a_budget_in_usd_needs_a_price(fleet: Fleet) -> None:
    run, provider = fleet.run(budget={"usd": 5.0}), Scripted("never")

    with pytest.raises(BudgetExceeded, match=r"price of scripted/m is not known.*ORCH_MODELS_FILE"):
        run.ask(provider)

    assert provider.asked == []


@pytest.mark.parametrize("over", [0.0, 1e-9, 0.5])
def test_a_budget_in_usd_that_is_used_up_does_not_stop_what_costs_nothing(fleet: Fleet, over: float) -> None:
    run = fleet.run(budget={"usd": 0.01})
    fleet.client.hset(JobKeys(run.job.id).job, "spent_usd", 0.01 + over)

    assert "simulated" in run.ask(SimulatedProvider())


# --- what is set aside comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["it fails", "it is cancelled", "its step is lost", "its step is parked"])
def test_what_was_set_aside_for_a_call_comes_back_when_it_ends(
    fleet: Fleet, priced: Config, end: str
) -> None:
    held = Held(ServerError("down", "scripted", 503) if end == "it fails" else completion("late", 10, 10))
    run = fleet.run(budget={"tokens": 1000})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run.ask, Scripted(held, config=priced), options={"max_tokens": 900})
        assert held.asked.wait(10)
        assert reserved(run.job) == 1
        match end:
            case "it fails":
                held.go.set()
                running.exception(10)
            case "it is cancelled":
                fleet.state.cancel(run.job.id, "enough")
            case "its step is lost":
                run.job.lose()
            case _:
                run.release(60)

        assert reserved(run.job) == 0
        held.go.set()
        running.exception(10)

    # what was paid for counts, whoever has the step
    assert spent(run.job)[0] == (0 if end == "it fails" else 20)


@pytest.mark.parametrize(
    "error",
    [TimedOut("late", "openai"), ConnectionFailed("cut", "openai", 200), Cancelled("stop", "openai")],
    ids=["timeout", "cut", "cancelled"],
)
def test_a_call_that_broke_off_takes_all_that_was_set_aside_for_it(
    fleet: Fleet, error: ProviderError
) -> None:
    # given a call of which nobody knows what it cost
    run = fleet.run(budget={"tokens": 10_000})
    with pytest.raises(type(error)):
        run.ask(Scripted(error), options={"max_tokens": 500})

    spent = int(fleet.client.hget(JobKeys(run.job.id).job, "spent_tokens") or 0)

    assert 500 < spent < 600
    assert told(run, "llm.response")[0]["tokens_out"] is None


def test_a_call_that_was_turned_down_takes_nothing(fleet: Fleet) -> None:
    run = fleet.run(budget={"tokens": 10_000})
    with pytest.raises(ServerError):
        run.ask(Scripted(ServerError("busy", "openai", 503)))

    assert fleet.client.hget(JobKeys(run.job.id).job, "spent_tokens") is None


def test_a_call_that_never_reached_its_vendor_takes_nothing(fleet: Fleet) -> None:
    error = TimedOut("no connection", "openai")
    error.reached = False
    run = fleet.run(budget={"tokens": 10_000})
    with pytest.raises(TimedOut):
        run.ask(Scripted(error))

    assert fleet.client.hget(JobKeys(run.job.id).job, "spent_tokens") is None
