"""What must never be in an error of an HTTP provider, and what cannot be sent at all."""

from __future__ import annotations

import json
import math
import traceback
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from providers import Message, Request
from providers.errors import BadRequest, ConnectionFailed, ProviderError, Retryable, TimedOut
from providers.faults import Border
from providers.http import Exchange
from tests.wire.server import Answer, Asked, Serve, Wire
from tests.wire.vendor import KEY, PROMPT, Vendor, outcome
from tests.wire.vendors import only

pytest_plugins = ["tests.wire.fixtures"]
pytestmark = pytest.mark.integration


def failure(vendor: Vendor, url: str, **options: Any) -> ProviderError:
    """Ask, and return the error."""
    with pytest.raises(ProviderError) as caught:
        vendor.ask(vendor.provider(url), **options)
    return caught.value


def everything(error: BaseException) -> str:
    """All that a log could show of an error and its causes."""
    return "".join([*traceback.format_exception(error), str(error), repr(error), repr(error.args)])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(vendor: Vendor, serve: Serve, status: int) -> None:
    elsewhere = serve(vendor.text("Give me your key"))
    server = serve(Answer(b"", status, headers={"Location": elsewhere.url + vendor.path}, framing="length"))

    error = failure(vendor, server.url)

    assert error.status == status
    assert not isinstance(error, Retryable)
    assert elsewhere.accepted == 0


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
@pytest.mark.parametrize("repeated", ["headers", "prompt", "body"])
def test_a_server_that_repeats_our_secrets_does_not_bring_them_into_the_error(
    vendor: Vendor, serve: Serve, status: int, repeated: str
) -> None:
    def echo(asked: Asked, wire: Wire) -> None:
        said = {"headers": str(dict(asked.headers)), "prompt": PROMPT, "body": asked.body.decode()}[repeated]
        body = json.dumps(vendor.problem(f"cannot take {said}", status))
        Answer(body.encode(), status, framing="length")(asked, wire)

    error = failure(vendor, serve(echo).url)

    assert KEY not in everything(error)
    assert "xylophone" not in everything(error)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nx: y", f"ключ-{KEY}", f"{KEY}\x00", f" {KEY}"])
@only("openai-chat", "openai-responses", "anthropic")
def test_a_key_that_cannot_be_sent_is_told_without_being_shown(
    vendor: Vendor, serve: Serve, key: str
) -> None:
    server = serve(vendor.text("Hello"))

    got = outcome(lambda: vendor.ask(vendor.provider(server.url, **{str(vendor.key): SecretStr(key)})))

    if isinstance(got, ProviderError):
        assert not isinstance(got, Retryable)
        assert KEY not in everything(got)
    else:
        assert vendor.credentials.items() <= server.asked[0].headers.items()


def test_a_provider_does_not_show_its_key_or_a_password_in_its_address(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))
    url = server.url.replace("http://", "http://someone:hunter2@")
    provider = vendor.provider(url)
    server.close()

    with pytest.raises(ConnectionFailed) as caught:
        vendor.ask(provider)

    shown = everything(caught.value) + repr(provider) + str(provider.endpoint)
    assert KEY not in shown
    assert "hunter2" not in shown


UNSENDABLE: list[dict[str, Any]] = [
    {"temperature": object()},
    {"temperature": math.nan},
    {"temperature": {1, 2}},
    {"stop": "half a pair \ud800"},
    {"max_tokens": "many"},
    {"max_tokens": -1},
    {"timeout_s": "soon"},
    {"timeout_s": 0},
]


@pytest.mark.parametrize("options", UNSENDABLE, ids=lambda options: repr(options)[:30])
def test_options_that_cannot_be_sent_are_a_typed_error(
    vendor: Vendor, serve: Serve, options: dict[str, Any]
) -> None:
    server = serve(vendor.text("Hello"))
    got = outcome(lambda: vendor.ask(vendor.provider(server.url), **options))

    assert not isinstance(got, Retryable) or "timeout_s" in options


def test_a_prompt_that_no_encoding_can_store_is_sent_or_a_bad_request(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))
    half: Message = {"role": "user", "content": "half a pair \ud83d of surrogates"}

    got = outcome(lambda: vendor.provider(server.url).complete(Request([half], options=vendor.options)))

    assert isinstance(got, BadRequest) or server.asked


def below(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*map(below, kind.__subclasses__()))


@pytest.mark.parametrize(
    "kind",
    sorted(
        below(httpx.HTTPError) | below(httpx.StreamError) | {httpx.InvalidURL}, key=lambda kind: kind.__name__
    ),
)
def test_every_error_of_httpx_has_one_of_ours(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, f"it said {KEY}")
    exchange = Exchange("POST", httpx.URL("http://localhost"), {}, silence_s=1.0, total_s=2.0)

    ours = Border("some", "http://localhost", keys=(KEY,)).transport(error, exchange)

    assert isinstance(ours, ProviderError)
    assert isinstance(ours, TimedOut) == issubclass(kind, httpx.TimeoutException)
    assert KEY not in str(ours)
