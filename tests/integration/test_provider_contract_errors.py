"""What every HTTP provider makes of an error: one typed error, with what the caller needs, and without secrets."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from providers.errors import (
    AuthFailed,
    BadRequest,
    NotReady,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Retryable,
    ServerError,
)
from tests.wire.server import Answer, Serve, in_turn
from tests.wire.vendor import REQUEST_ID, Vendor
from tests.wire.vendors import only

pytest_plugins = ["tests.wire.fixtures"]
pytestmark = pytest.mark.integration

BY_STATUS: dict[int, type[ProviderError]] = {
    400: BadRequest,
    401: AuthFailed,
    402: QuotaExceeded,
    403: AuthFailed,
    404: NotReady,
    408: Retryable,
    409: Retryable,
    413: BadRequest,
    418: BadRequest,
    422: BadRequest,
    429: RateLimited,
    500: ServerError,
    502: ServerError,
    503: ServerError,
    504: Retryable,
    529: ServerError,
    599: ServerError,
}


def failure(vendor: Vendor, url: str, **options: Any) -> ProviderError:
    """Ask, and return the error."""
    with pytest.raises(ProviderError) as caught:
        vendor.ask(vendor.provider(url), **options)
    return caught.value


@pytest.mark.parametrize("status", BY_STATUS)
def test_a_status_becomes_the_error_that_says_what_to_do(vendor: Vendor, serve: Serve, status: int) -> None:
    server = serve(vendor.error(status))

    error = failure(vendor, server.url)

    assert isinstance(error, BY_STATUS[status])
    assert error.status == status
    assert error.provider == vendor.provider(server.url).name
    assert error.request_id == (REQUEST_ID if vendor.request_id else None)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Bad gateway</body></html>",
        b"[]",
        b"null",
        b'"text"',
        b'{"error": null}',
        b'{"error": []}',
        b'{"error": "text"}',
        b'{"error": {"message": {"deep": 1}, "type": 5, "code": [], "details": "text"}}',
        b'{"error": {"message": null, "type": null, "code": null, "details": {"error_code": {}}}}',
        b'{"error"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"error": {"code": ' + b"9" * 10_000 + b"}}",
    ],
    ids=lambda body: repr(body[:24]) if isinstance(body, bytes) else str(body),
)
def test_the_status_decides_whatever_the_body_holds(
    vendor: Vendor, serve: Serve, status: int, body: bytes
) -> None:
    server = serve(Answer(body, status, framing="length"))

    error = failure(vendor, server.url)

    assert isinstance(error, BY_STATUS[status])
    assert error.status == status
    assert len(str(error)) < 2000


def test_what_the_vendor_says_is_told_to_the_user(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.error(400, "max_tokens is too large: 999999"))

    assert "max_tokens is too large: 999999" in str(failure(vendor, server.url))


def test_a_vendors_message_of_any_length_becomes_one_short_line(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.error(400, "line\nof \x1b[31mtext\x00 " * 50_000))

    message = str(failure(vendor, server.url))

    assert len(message) < 2000
    assert message.isprintable()


def test_an_account_without_money_is_not_asked_again(vendor: Vendor, serve: Serve) -> None:
    for status, body in vendor.quotas():
        server = serve(Answer(json.dumps(body).encode(), status, framing="length"))

        error = failure(vendor, server.url)

        assert isinstance(error, QuotaExceeded), body
        assert not isinstance(error, Retryable)
        assert error.status == status


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_a_server_that_says_do_not_retry_is_believed(vendor: Vendor, serve: Serve, status: int) -> None:
    server = serve(vendor.error(status, x_should_retry="false"))

    error = failure(vendor, server.url)

    assert not isinstance(error, Retryable)
    assert error.status == status


@pytest.mark.parametrize("status", [400, 409, 413, 500])
def test_a_server_that_says_retry_is_believed(vendor: Vendor, serve: Serve, status: int) -> None:
    server = serve(vendor.error(status, x_should_retry="true", retry_after="3"))

    error = failure(vendor, server.url)

    assert isinstance(error, Retryable)
    assert (error.status, error.retry_after_s) == (status, 3.0)


@pytest.mark.parametrize("given", ["yes", "", "TRUE!", "0"])
def test_any_other_word_on_retries_changes_nothing(vendor: Vendor, serve: Serve, given: str) -> None:
    server = serve(in_turn(vendor.error(400, x_should_retry=given), vendor.error(503, x_should_retry=given)))

    assert isinstance(failure(vendor, server.url), BadRequest)
    assert isinstance(failure(vendor, server.url), ServerError)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 1.5 "}, 1.5),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after_ms": "soon", "retry_after": "3"}, 3.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": ""}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after_ms": "-inf"}, None),
        ({"retry_after": "Fri, 99 Foo 2026 08:00:00 GMT"}, None),
        ({"retry_after": "Fri, 31 Dec 999999999 08:00:00 GMT"}, None),
    ],
)
def test_the_wait_that_was_asked_for_is_told_in_seconds(
    vendor: Vendor, serve: Serve, status: int, headers: dict[str, str], expected: float | None
) -> None:
    server = serve(vendor.error(status, **headers))

    assert failure(vendor, server.url).retry_after_s == expected


@pytest.mark.parametrize("given", ["-5", "-0.5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_time_that_has_passed_is_no_wait(vendor: Vendor, serve: Serve, given: str) -> None:
    server = serve(vendor.error(429, retry_after=given))

    assert failure(vendor, server.url).retry_after_s in (None, 0.0)


@pytest.mark.parametrize("given", ["1e400", "9" * 400, "99999999999"])
def test_a_wait_without_end_is_at_least_a_number(vendor: Vendor, serve: Serve, given: str) -> None:
    server = serve(vendor.error(429, retry_after=given))

    wait = failure(vendor, server.url).retry_after_s

    assert wait is None or (wait > 60 and math.isfinite(wait))


def test_a_date_to_come_back_at_becomes_seconds(vendor: Vendor, serve: Serve) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server = serve(vendor.error(429, retry_after=date))

    wait = failure(vendor, server.url).retry_after_s

    assert wait is not None
    assert 80 < wait <= 100


def limits(vendor: Vendor) -> dict[str, str]:
    """Headers that leave 59 requests for 63 seconds more, and 149,984 tokens for about a minute."""
    if vendor.name == "anthropic":
        start = datetime.now(UTC)
        resets = {"requests": start + timedelta(seconds=63), "tokens": start + timedelta(seconds=360.5)}
        left = {"requests": 59, "tokens": 149984}
        return {
            **{f"anthropic-ratelimit-{name}-limit": "150000" for name in left},
            **{f"anthropic-ratelimit-{name}-remaining": str(value) for name, value in left.items()},
            **{
                f"anthropic-ratelimit-{name}-reset": f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in resets.items()
            },
        }
    return {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-requests": "1m3s",
        "x-ratelimit-reset-tokens": "6m0.5s",
    }


@only("openai-chat", "openai-responses", "anthropic")
def test_what_is_left_of_the_rate_limit_is_told_with_answers_and_errors(vendor: Vendor, serve: Serve) -> None:
    answer, refused = vendor.text("Hello"), vendor.error(429)
    headers = limits(vendor)
    server = serve(
        in_turn(
            replace(answer, headers={**answer.headers, **headers}),
            replace(refused, headers={**refused.headers, **headers}),
        )
    )

    told = vendor.ask(vendor.provider(server.url)).allowance, failure(vendor, server.url).allowance

    for allowance in told:
        assert allowance is not None
        assert (allowance.requests, allowance.tokens) == (59, 149984)
        assert allowance.requests_reset_s == pytest.approx(63, abs=10)
        assert allowance.tokens_reset_s == pytest.approx(360.5, abs=10)


def test_without_rate_limit_headers_nothing_is_known(vendor: Vendor, serve: Serve) -> None:
    server = serve(in_turn(vendor.text("Hello"), vendor.error(429)))

    assert vendor.ask(vendor.provider(server.url)).allowance is None
    assert failure(vendor, server.url).allowance is None


@pytest.mark.parametrize(
    "value", ["", "soon", "-1", "nan", "inf", "1m3", "s", "9" * 400, "2026-99-99T00:00:00Z"]
)
def test_rate_limit_headers_that_make_no_sense_break_nothing(
    vendor: Vendor, serve: Serve, value: str
) -> None:
    answer = vendor.text("Hello")
    server = serve(replace(answer, headers={**answer.headers, **dict.fromkeys(limits(vendor), value)}))

    allowance = vendor.ask(vendor.provider(server.url)).allowance

    if allowance is not None:
        waits = [allowance.requests_reset_s, allowance.tokens_reset_s]
        assert all(wait is None or (wait >= 0 and math.isfinite(wait)) for wait in waits)
        assert json.loads(json.dumps([allowance.requests, allowance.tokens])) is not None


def test_an_error_within_the_stream_is_the_error_that_it_names(vendor: Vendor, serve: Serve) -> None:
    for expected, events in vendor.failing():
        for before in ([], vendor.opening("half an ", "answer")):
            server = serve(vendor.stream([*before, *events]))

            error = failure(vendor, server.url)

            assert isinstance(error, expected), events
            assert error.request_id == (REQUEST_ID if vendor.request_id else None)
            assert "half an" not in str(error)


def test_an_error_with_status_200_is_an_error(vendor: Vendor, serve: Serve) -> None:
    body = json.dumps(vendor.problem("it went wrong", 500)).encode()

    server = serve(Answer(body))

    assert isinstance(failure(vendor, server.url), ServerError)


def test_an_error_crosses_a_process_border_whole(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.error(429, retry_after="3"))

    error = failure(vendor, server.url)
    other = pickle.loads(pickle.dumps(error))

    assert vars(other) == vars(error)
    assert type(other) is type(error)
