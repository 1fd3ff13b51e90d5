"""What the gateway tells of each call, in which order, and what it never tells."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
import redis

from orchestrator.gateway import ready_providers
from providers import Completion, Provider, ProviderError, Request, Tool
from providers.config import Config
from providers.errors import (
    AuthFailed,
    ConnectionFailed,
    InvalidAnswer,
    NotReady,
    QuotaExceeded,
    RateLimited,
    ServerError,
    TimedOut,
    TruncatedAnswer,
)
from tests.gateway.fleet import QUESTION, Fleet, Run, told
from tests.gateway.providers import Scripted, completion

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

COMPLETION = "plugh-the-completion"
NUMBER = Tool(
    "submit",
    "Hand it in.",
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
)


class Other(Scripted):
    name: ClassVar[str] = "ollama"


@pytest.fixture
def run(fleet: Fleet) -> Run:
    """A claimed step."""
    return fleet.run()


def good(text: str) -> str:
    if "good" not in text:
        raise ValueError("it is not good")
    return text


# --- sequences --------------------------------------------------------------------------------------------------------


def test_a_miss_tells_of_the_miss_the_request_and_the_response(run: Run) -> None:
    run.ask(Scripted(f"good {COMPLETION}"), read=good)

    assert run.job.types == ["cache.miss", "llm.request", "llm.response"]
    [response] = told(run, "llm.response")
    duration = response.pop("duration_s")
    assert duration >= 0
    assert response == {
        "key": told(run, "cache.miss")[0]["key"],
        "provider": "scripted",
        "model": "m-2026-01-01",
        "success": True,
        "finish_reason": "stop",
        "tokens_in": 11,
        "tokens_out": 7,
        "cost_usd": None,
    }


def test_a_hit_tells_of_nothing_else_and_names_the_layer(client: redis.Redis, fleet: Fleet) -> None:
    provider = Scripted("good")
    fleet.run().ask(provider, read=good)

    second = fleet.run()
    second.ask(provider, read=good)
    assert second.job.types == ["cache.hit"]
    [first_hit] = told(second, "cache.hit")
    client.flushall()
    third = fleet.run()
    third.ask(provider, read=good)

    assert third.job.types == ["cache.hit"]
    [second_hit] = told(third, "cache.hit")
    assert (first_hit["layer"], second_hit["layer"]) == ("redis", "disk")
    assert first_hit["model"] == second_hit["model"] == "m-2026-01-01"


def test_the_hit_has_the_key_of_the_miss(run: Run) -> None:
    provider = Scripted("good")
    run.ask(provider, read=good)
    run.ask(provider, read=good)

    assert told(run, "cache.hit")[0]["key"] == told(run, "cache.miss")[0]["key"]


@pytest.mark.parametrize(
    "error", [TimedOut("late", "scripted"), ServerError("down", "scripted", 500)], ids=lambda one: one.kind
)
def test_an_error_ends_its_request_with_a_response_that_says_so(run: Run, error: ProviderError) -> None:
    with pytest.raises(type(error)):
        run.ask(Scripted(error), read=good)

    assert run.job.types == ["cache.miss", "llm.request", "llm.response"]
    [response] = told(run, "llm.response")
    assert (response["success"], response["finish_reason"]) == (False, "error")
    assert response["error"] == error.kind
    assert response["tokens_out"] is None
    assert [event.level for event in run.job.events("llm.response")] == ["WARN"]


@pytest.mark.parametrize(
    "error",
    [AuthFailed("no", "scripted", 401), QuotaExceeded("spent", "scripted", 402)],
    ids=lambda e: e.kind,
)
def test_a_provider_that_is_not_available_falls_back_to_the_next(run: Run, error: ProviderError) -> None:
    answer = run.ask(Scripted(error), Other("good"), read=good)

    assert answer == "good"
    assert run.job.types == [
        "cache.miss",
        "llm.request",
        "llm.response",
        "provider.fallback",
        "cache.miss",
        "llm.request",
        "llm.response",
    ]
    assert told(run, "provider.fallback") == [{"from": "scripted", "to": "ollama", "reason": error.kind}]
    assert [event.level for event in run.job.events("provider.fallback")] == ["WARN"]
    assert told(run, "llm.response")[1]["cost_usd"] == 0.0
    first, second = told(run, "cache.miss")
    assert first["key"] != second["key"]


def test_an_error_of_the_last_provider_is_the_callers(run: Run) -> None:
    with pytest.raises(QuotaExceeded):
        run.ask(Scripted(AuthFailed("no")), Other(QuotaExceeded("spent")), read=good)

    assert run.job.types.count("provider.fallback") == 1


def test_an_answer_that_cannot_be_read_does_not_fall_back(run: Run) -> None:
    with pytest.raises(InvalidAnswer):
        run.ask(Scripted("bad", "worse"), Other("good"), read=good)

    assert "provider.fallback" not in run.job.types


def test_a_second_question_is_a_request_of_its_own_under_the_first_ones_key(run: Run) -> None:
    run.ask(Scripted("bad", "good"), read=good)

    assert run.job.types == ["cache.miss", "llm.request", "llm.response", "llm.request", "llm.response"]
    assert [data["messages"] for data in told(run, "llm.request")] == [1, 3]
    assert (
        len({event.get("key") for event in run.job.events("cache.miss", "llm.request", "llm.response")}) == 1
    )


@pytest.mark.parametrize("answers", [["good"], ["bad", "good"], ["bad", "bad"], [ServerError("x")]])
def test_every_request_is_followed_by_its_response(run: Run, answers: list[str | ProviderError]) -> None:
    with suppress(ProviderError):
        run.ask(Scripted(*answers), read=good)

    calls = [kind for kind in run.job.types if kind.startswith("llm.")]
    assert calls == ["llm.request", "llm.response"] * (len(calls) // 2)


def test_a_provider_that_breaks_its_promise_still_has_its_request_answered(run: Run) -> None:
    # given a provider that raises what it should not
    class Broken(Provider):
        name: ClassVar[str] = "broken"

        def complete(self, request: Request) -> Completion:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run.ask(Broken(), read=good)

    assert run.job.types == ["cache.miss", "llm.request", "llm.response"]


# --- an answer that was cut off ---------------------------------------------------------------------------------------


def cut(text: str) -> Completion:
    return completion(text, finish_reason="length")


def test_an_answer_that_was_cut_off_is_continued_and_put_together(run: Run) -> None:
    provider = Scripted(cut("good "), cut("on"), completion("ly"))

    assert run.ask(provider, read=good) == "good only"

    # each further question shows all that there is, and each is told of with what it took
    assert [len(one.messages) for one in provider.asked] == [1, 3, 3]
    assert provider.asked[2].messages[1]["content"] == "good on"
    assert [one["tokens_out"] for one in told(run, "llm.response")] == [7, 7, 7]
    assert len(told(run, "cache.miss")) == 1


def test_an_answer_is_continued_three_times_and_half_of_one_is_never_used(run: Run) -> None:
    provider = Scripted(*[cut("good ")] * 4)

    with pytest.raises(TruncatedAnswer):
        run.ask(provider, read=good)

    assert len(provider.asked) == 4


def test_cut_off_arguments_are_not_continued(run: Run) -> None:
    provider = Scripted(cut('{"n": '))

    with pytest.raises(TruncatedAnswer):
        run.gateway(provider).tool_call(QUESTION, NUMBER, lambda values: values["n"])


# --- what a call costs ------------------------------------------------------------------------------------------------


def unreached() -> ProviderError:
    """Nobody was there to ask."""
    error = ConnectionFailed("nobody there", "scripted")
    error.reached = False
    return error


PRICED = "[scripted]\nmodels.m.usd_per_million_tokens = { input = 1.0, output = 2.0 }\n"


@pytest.mark.parametrize(
    ("answer", "cost"),
    [
        (completion("good", 1000, 500), 0.002),
        (completion("good", None, None), None),
        (RateLimited("no", "scripted", 429), 0.0),
        (ServerError("no", "scripted", 503), 0.0),
        (AuthFailed("no", "scripted", 401), 0.0),
        (TimedOut("no", "scripted"), None),
        (ConnectionFailed("it broke", "scripted", 200), None),
        (ConnectionFailed("it broke before a word", "scripted"), None),
        (unreached(), 0.0),
    ],
)
def test_the_cost_of_a_call_is_told_where_it_is_known(
    run: Run, tmp_path: Path, answer: Completion | ProviderError, cost: float | None
) -> None:
    prices = tmp_path / "models.toml"
    prices.write_text(PRICED)

    with suppress(ProviderError):
        run.ask(Scripted(answer, config=Config(models_file=prices)), read=good)

    assert [one["cost_usd"] for one in told(run, "llm.response")] == [cost]


@pytest.mark.parametrize("answer", [completion("good"), ServerError("no", "scripted", 503)])
def test_the_cost_of_a_model_without_a_price_is_not_known(
    run: Run, answer: Completion | ProviderError
) -> None:
    with suppress(ProviderError):
        run.ask(Scripted(answer), read=good)

    assert [one["cost_usd"] for one in told(run, "llm.response")] == [None]


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
