"""What vendors' headers say: seconds to wait, what is left, whether to call again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from providers.headers import allowance, request_id, retry_after_s, should_retry, span_s
from providers.types import Allowance

NOW = datetime(2026, 11, 20, 8, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012),
        ("1m3s", 63),
        ("6h", 21_600),
        ("1h0m1.5s", 3601.5),
        ("250us", 0.00025),
        ("1d", 86_400),
        ("0s", 0),
        ("30", 30),
        ("0.5", 0.5),
        ("-3", 0),
        ("2026-11-20T08:01:00Z", 60),
        ("2026-11-20T09:00:00.5+01:00", 0.5),
        ("2026-11-20T08:00:10", 10),
        ("2026-11-20T07:00:00Z", 0),
        ("", None),
        ("soon", None),
        ("1m3", None),
        ("ms", None),
        ("nan", None),
        ("inf", None),
        ("2026-99-99T00:00:00Z", None),
    ],
)
def test_spans_are_read_in_every_form_that_vendors_write(text: str, seconds: float | None) -> None:
    assert span_s(text, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-7"}, 0),
        ({"retry-after": "Fri, 20 Nov 2026 08:00:30 GMT"}, 30),
        ({"retry-after": "Fri, 20 Nov 2026 07:00:30 GMT"}, 0),
        ({"retry-after": "Fri, 20 Nov 2026 08:00:30 -0000"}, 30),
        ({"retry-after": "in a while"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after-ms": "?", "retry-after": "7"}, 7),
    ],
)
def test_the_wait_that_is_asked_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


def test_openais_headers_say_what_is_left() -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }

    assert allowance(headers, NOW) == Allowance(59, 1, 149_984, 360)


def test_of_anthropics_token_limits_the_nearest_to_its_end_counts() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "10",
        "anthropic-ratelimit-requests-reset": "2026-11-20T08:00:05Z",
        "anthropic-ratelimit-tokens-remaining": "9000",
        "anthropic-ratelimit-tokens-reset": "2026-11-20T08:00:10Z",
        "anthropic-ratelimit-input-tokens-remaining": "8000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-20T08:00:20Z",
        "anthropic-ratelimit-output-tokens-remaining": "1000",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-20T08:00:30Z",
    }

    assert allowance(headers, NOW) == Allowance(10, 5, 1000, 30)


def test_half_of_what_could_be_told_is_told_and_nothing_is_none() -> None:
    assert allowance({"x-ratelimit-remaining-requests": "3"}, NOW) == Allowance(requests=3)
    assert allowance({"x-ratelimit-reset-tokens": "2s"}, NOW) == Allowance(tokens_reset_s=2)
    assert allowance({"x-ratelimit-remaining-requests": "many"}, NOW) is None
    assert allowance({}, NOW) is None


def test_the_call_has_a_name_and_a_wish() -> None:
    assert request_id({"x-request-id": "a", "request-id": "b"}) == "a"
    assert request_id({"request-id": "b"}) == "b"
    assert request_id({}) is None
    wishes = [{"x-should-retry": text} for text in ("true", "False", "maybe")]
    assert [should_retry(headers) for headers in (*wishes, {})] == [True, False, None, None]
