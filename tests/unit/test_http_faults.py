"""What failures become: every error of httpx has one of ours, a vendor's own words go before its status."""

from __future__ import annotations

import inspect
import json

import httpx
import pytest

from providers.errors import (
    AuthFailed,
    BadRequest,
    ConnectionFailed,
    InvalidAnswer,
    NotReady,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ServerError,
    TimedOut,
    Unavailable,
)
from providers.faults import TRANSPORT, Border
from providers.http import Exchange
from providers.sse import TooLongError
from providers.wording import LONGEST, shown

KEY = "sk-0123456789"
PROMPT = "Write a poem about the secret garden behind the house."
BORDER = Border(
    "vendor",
    "http://vendor.test/v1",
    words={"no_money": QuotaExceeded, "no_such_model": NotReady},
    advice={NotReady: "look at --model"},
    keys=(KEY,),
    prompts=(PROMPT,),
)
EXCHANGE = Exchange("POST", httpx.URL("http://vendor.test/v1/chat"), {}, 30.0, 300.0)


def raised_by_httpx() -> list[type[Exception]]:
    """Every exception class of httpx that a request may raise."""
    found = [kind for _, kind in inspect.getmembers(httpx, inspect.isclass) if issubclass(kind, Exception)]
    return [kind for kind in found if kind is not httpx.CookieConflict]


@pytest.mark.parametrize("kind", raised_by_httpx())
def test_every_error_of_httpx_is_translated(kind: type[Exception]) -> None:
    error = BORDER.transport(kind.__new__(kind, "it broke"), EXCHANGE)

    assert type(error) is not ProviderError
    assert error.provider == "vendor"


def test_the_table_has_the_most_specific_first() -> None:
    for place, (foreign, _, _) in enumerate(TRANSPORT):
        assert not [above for above, _, _ in TRANSPORT[:place] if issubclass(foreign, above)]


@pytest.mark.parametrize(
    ("foreign", "ours", "words"),
    [
        (httpx.ConnectTimeout("x"), TimedOut, "no connection to http://vendor.test/v1 within 10 s"),
        (httpx.ReadTimeout("x"), TimedOut, "silent for 30 s"),
        (TimeoutError(), TimedOut, "not whole within 300 s"),
        (httpx.ConnectError("refused"), ConnectionFailed, "http://vendor.test/v1: refused"),
        (httpx.RemoteProtocolError(""), ConnectionFailed, "RemoteProtocolError"),
        (TooLongError(), InvalidAnswer, "larger than"),
    ],
)
def test_a_broken_connection_is_told_in_words(
    foreign: Exception, ours: type[ProviderError], words: str
) -> None:
    error = BORDER.transport(foreign, EXCHANGE)

    assert isinstance(error, ours)
    assert words in error.message


def answer(status: int, body: object, **headers: str) -> ProviderError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return BORDER.answer(status, json.dumps(body).encode(), named)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, NotReady),
        (400, BadRequest),
        (401, AuthFailed),
        (402, QuotaExceeded),
        (403, AuthFailed),
        (404, NotReady),
        (408, TimedOut),
        (409, ServerError),
        (413, BadRequest),
        (422, BadRequest),
        (429, RateLimited),
        (500, ServerError),
        (503, ServerError),
        (529, ServerError),
    ],
)
def test_a_status_says_what_kind_it_is(status: int, kind: type[ProviderError]) -> None:
    error = answer(status, {"error": {"message": "no", "type": "invalid_request_error"}})

    assert type(error) is kind
    assert error.status == status


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"type": "no_money"}},
        {"error": {"code": "no_money", "type": "rate_limit_error"}},
        {"error": {"type": "rate_limit_error", "details": {"error_code": "no_money"}}},
        {"type": "error", "error": {"type": "no_money"}},
        {"code": "no_money", "message": "top up"},
    ],
)
def test_the_vendors_own_words_go_before_the_status(body: object) -> None:
    assert type(answer(429, body)) is QuotaExceeded


def test_whether_to_call_again_is_the_vendors_to_say_but_not_without_money() -> None:
    assert type(answer(400, {}, x_should_retry="true")) is ServerError
    assert type(answer(500, {}, x_should_retry="false")) is Unavailable
    assert type(answer(429, {}, x_should_retry="true")) is RateLimited
    assert type(answer(401, {}, x_should_retry="false")) is AuthFailed
    assert type(answer(429, {"error": {"type": "no_money"}}, x_should_retry="true")) is QuotaExceeded


@pytest.mark.parametrize(
    ("said", "kind", "status"),
    [
        ({"type": "overloaded_error"}, ServerError, None),
        ({"type": "rate_limit_error"}, RateLimited, None),
        ({"type": "authentication_error"}, AuthFailed, None),
        ({"type": "invalid_request_error"}, BadRequest, None),
        ({"code": 429, "message": "slow down"}, RateLimited, 429),
        ({"code": 7}, ServerError, None),
        ("the model runner has stopped", ServerError, None),
        ({}, ServerError, None),
        (None, ServerError, None),
    ],
)
def test_an_error_after_status_200_is_what_it_calls_itself(
    said: object, kind: type[ProviderError], status: int | None
) -> None:
    error = BORDER.fault(said, {})

    assert type(error) is kind
    assert error.status == status


def test_the_message_says_what_the_vendor_said_and_what_to_do() -> None:
    error = answer(404, {"error": {"message": "no model x"}})

    assert str(error) == "vendor: answered HTTP 404: no model x (look at --model)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "text"}', "answered HTTP 500: text"),
        (b'{"detail": "text"}', "answered HTTP 500: text"),
        (b'{"detail": [{"msg": "field required"}]}', "answered HTTP 500: field required"),
        (b'{"message": "text"}', "answered HTTP 500: text"),
        (b"plain text", "answered HTTP 500: plain text"),
        (b"<html>...", "answered HTTP 500: a page of HTML, as proxies answer"),
        (b"", "answered HTTP 500"),
        (b"[[[", "answered HTTP 500: [[["),
    ],
)
def test_error_bodies_of_many_makes_are_read(body: bytes, message: str) -> None:
    assert BORDER.answer(500, body, {}).message == message


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"the key {KEY} is wrong", "the key [key] is wrong"),
        (f"cannot read: {PROMPT}", "cannot read: …"),
        ("cannot read: about the secret garden behind", "cannot read:…"),
        ("two\nlines\tand \x1b[31mred\x1b[0m\x00 \u202etext", "two lines and red text"),
        ("x" * 1000, "x" * (LONGEST - 1) + "…"),
    ],
)
def test_what_is_shown_of_a_vendors_words(said: str, told: str) -> None:
    assert shown(said, (KEY,), (PROMPT,)) == told
