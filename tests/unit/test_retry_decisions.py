"""When a failed call is made again: decisions that need no Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tenacity import Future, RetryCallState, Retrying

from orchestrator.retry import (
    DEADLINE_S,
    LONGEST_ASKED_S,
    LONGEST_BACKOFF_S,
    Backoff,
    Parked,
    Tries,
    asked_to_wait,
    spread,
)
from providers.errors import ProviderError, RateLimited, ServerError

NOW = 1_000_000.0


def failed(attempt: int = 1, error: BaseException | None = None, took_s: float = 0.0) -> RetryCallState:
    """What tenacity knows after so many attempts, all failed."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    outcome = Future(attempt)
    outcome.set_exception(error or ServerError("down"))
    state.outcome, state.outcome_timestamp = outcome, state.start_time + took_s
    return state


def highest(low: float, high: float) -> float:
    return high


def backoff(
    retries: int = 3, before: Tries | None = None, draw: Callable[[float, float], float] = highest
) -> Backoff:
    return Backoff(retries, before, lambda: NOW, draw)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_there_are_as_many_tries_as_the_first_and_the_retries(retries: int) -> None:
    stops = [backoff(retries).stop(failed(attempt)) for attempt in range(1, retries + 2)]

    assert stops == [*[False] * retries, True]


def test_tries_of_earlier_runs_count() -> None:
    before = Tries(provider="p", failed=2, since=NOW - 10)

    assert backoff(3, before).stop(failed(1)) is False
    assert backoff(3, before).stop(failed(2)) is True
    assert backoff(3, before).tries("p", failed(1)) == Tries(provider="p", failed=3, since=NOW - 10)


def test_the_first_failure_dates_the_tries() -> None:
    assert backoff().tries("p", failed(2, took_s=5)) == Tries(provider="p", failed=2, since=NOW - 5)


def test_no_try_begins_after_the_deadline() -> None:
    at = backoff(20, Tries(provider="p", failed=1, since=NOW - DEADLINE_S))
    after = backoff(20, Tries(provider="p", failed=1, since=NOW - DEADLINE_S - 1))

    assert (at.stop(failed()), after.stop(failed())) == (False, True)


def test_waits_double_up_to_a_most() -> None:
    waits = [backoff().wait(failed(attempt)) for attempt in range(1, 9)]

    assert waits == [0.5, 1, 2, 4, 8, 16, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S]


def test_waits_go_on_where_an_earlier_run_left_off() -> None:
    assert backoff(9, Tries(provider="p", failed=3, since=NOW)).wait(failed(1)) == 4


def test_a_wait_is_drawn_from_nothing_up_to_the_most() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.25

    assert backoff(draw=draw).wait(failed(3)) == 0.25
    assert drawn == [(0.0, 2.0)]


@pytest.mark.parametrize(("asked", "waits"), [(0.0, 0.0), (7.5, 7.5), (60.0, 60.0), (3600.0, 60.0)])
def test_what_the_vendor_asked_for_goes_before_the_backoff_within_reason(asked: float, waits: float) -> None:
    error = RateLimited("too many", retry_after_s=asked)

    assert backoff().wait(failed(5, error)) == waits
    assert asked_to_wait(error) == waits


def test_a_vendor_that_asks_for_nothing_is_not_made_to() -> None:
    assert asked_to_wait(ProviderError("no")) is None
    assert asked_to_wait(ProviderError("no", retry_after_s=1e9)) == LONGEST_ASKED_S


def test_tries_survive_the_way_through_the_steps_record() -> None:
    tries = Tries(provider="p", failed=2, since=NOW)

    assert Tries.model_validate_json(tries.model_dump_json()) == tries


def test_a_park_says_why_and_for_how_long() -> None:
    parked = Parked("it is busy", 3.0)

    assert (parked.reason, parked.seconds, parked.tries) == ("it is busy", 3.0, None)


def test_those_who_wait_for_the_same_moment_come_a_little_later_each_at_its_own() -> None:
    factors = {spread() for _ in range(100)}

    assert len(factors) > 50
    assert all(1.0 <= factor <= 1.1 for factor in factors)
