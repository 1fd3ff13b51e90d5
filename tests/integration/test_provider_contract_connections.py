"""What every HTTP provider makes of connections that break, hang, drip or are shared: one typed error, soon."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from providers import Completion, Message, ProviderError, Request
from providers.errors import BadRequest, Cancelled, ConnectionFailed, NotReady, Retryable, TimedOut
from tests.wire.server import Asked, Serve, Server, Wire, drip, hang_up, in_turn, raw, reset, say_nothing
from tests.wire.vendor import MESSAGES, Vendor, outcome

pytest_plugins = ["tests.wire.fixtures"]
pytestmark = pytest.mark.integration

SOON_S = 5.0
"""Well above what anything here should take, well below the patience of the servers."""


def test_an_answer_that_breaks_off_is_a_broken_connection(vendor: Vendor, serve: Serve) -> None:
    for framing in ("chunked", "length", "close"):
        for ending in ("cut", "reset"):
            server = serve(vendor.half(framing=framing, ending=ending))

            with pytest.raises(ConnectionFailed) as caught:
                vendor.ask(vendor.provider(server.url))

            assert "half an" not in str(caught.value)
            assert len(server.asked) == 1


def test_an_answer_that_ends_before_it_is_finished_is_a_broken_connection(
    vendor: Vendor, serve: Serve
) -> None:
    server = serve(vendor.half())

    with pytest.raises(ConnectionFailed):
        vendor.ask(vendor.provider(server.url))


def test_an_answer_cut_anywhere_is_whole_or_an_error(vendor: Vendor, serve: Serve) -> None:
    answer = replace(vendor.text("one ", "two ", "three 🎉"), framing="close")
    cuts = range(0, len(answer.body), 11)
    server = serve(in_turn(*(replace(answer, body=answer.body[:cut]) for cut in cuts)))
    provider = vendor.provider(server.url)

    for _ in cuts:
        got = outcome(lambda: vendor.ask(provider))

        if isinstance(got, Completion):
            assert (got.text, got.finish_reason) == ("one two three 🎉", "stop")
        else:
            assert isinstance(got, Retryable)


def test_a_connection_that_is_closed_without_a_word_has_failed(vendor: Vendor, serve: Serve) -> None:
    for script in (hang_up, raw(b"HTTP/1.1 20"), raw(b"HTTP/1.1 200 OK\r\nContent-Ty"), reset):
        server = serve(script)

        with pytest.raises(ConnectionFailed):
            vendor.ask(vendor.provider(server.url))

        assert len(server.asked) == 1


def errors_at_once(vendor: Vendor, servers: list[Server], silence_s: float, **options: Any) -> list[Any]:
    """Ask all servers at the same time; what each call comes to, once all have ended."""

    def ask(server: Server) -> Completion | ProviderError:
        return outcome(lambda: vendor.ask(vendor.provider(server.url, timeout_s=silence_s), **options))

    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(ask, servers))


def test_silence_is_a_timeout(vendor: Vendor, serve: Serve) -> None:
    half = vendor.half(ending="stall")
    silent = [say_nothing, replace(half, body=b""), half, replace(half, body=half.body[:-5])]
    servers = [serve(script) for script in silent]
    started = time.monotonic()

    errors = errors_at_once(vendor, servers, silence_s=0.3, timeout_s=60)

    assert time.monotonic() - started < SOON_S
    assert [type(error) for error in errors] == [TimedOut] * len(servers)
    assert all(server.left.wait(SOON_S) for server in servers)
    assert [len(server.asked) for server in servers] == [1] * len(servers)


def test_an_answer_that_drips_for_ever_ends_at_the_total_deadline(vendor: Vendor, serve: Serve) -> None:
    half = vendor.half(framing="close")
    start = half.head() + half.body
    comment = b" \n" if vendor.name == "ollama" else b": keep-alive\n\n"
    dripping = [
        drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.05),
        drip(b"HTTP/1.1 200 OK\r\nx-slow: ", b"x", 0.05),
        drip(start + b"data: ", b"x", 0.05),
        drip(start, comment, 0.05),
        drip(start, vendor.encode(vendor.opening("more")[-1:]), 0.05),
        drip(start, b"\r\n", 0.05),
        drip(half.head().replace(b"200 OK", b"500 No"), b"x", 0.05),
    ]
    servers = [serve(script) for script in dripping]
    started = time.monotonic()

    errors = errors_at_once(vendor, servers, silence_s=20.0, timeout_s=0.5)

    assert time.monotonic() - started < SOON_S
    assert [type(error) for error in errors[:-1]] == [TimedOut] * (len(servers) - 1)
    assert isinstance(errors[-1], Retryable)
    assert all(server.left.wait(SOON_S) for server in servers)


def test_an_answer_that_keeps_coming_outlives_the_patience_for_silence(vendor: Vendor, serve: Serve) -> None:
    slow = threading.Event()

    def script(asked: Asked, wire: Wire) -> None:
        answer = vendor.text()
        wire.send(answer.head())
        for event in [*vendor.opening(*"abcdef"), *vendor.closing(text="abcdef")]:
            slow.wait(0.1)
            answer.write(wire, vendor.encode([event]))
        answer.end(wire)

    server = serve(script)

    assert vendor.ask(vendor.provider(server.url, timeout_s=0.5)).text == "abcdef"


def in_background(call: Any) -> Future[Any]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


@pytest.mark.parametrize("when", ["before the head", "after the head", "in the stream"])
def test_a_cancelled_call_ends_at_once_and_hangs_up(vendor: Vendor, serve: Serve, when: str) -> None:
    stalled = replace(vendor.half(), ending="stall")
    script = {
        "before the head": say_nothing,
        "after the head": replace(stalled, body=b""),
        "in the stream": stalled,
    }[when]
    server = serve(script)
    request = Request(MESSAGES, options=vendor.options)
    call = in_background(lambda: vendor.provider(server.url).complete(request))
    server.arrived.get(timeout=SOON_S)

    request.cancelled.set()

    assert isinstance(call.exception(timeout=2), Cancelled)
    assert server.left.wait(SOON_S)


def test_a_call_that_was_cancelled_before_is_not_made(vendor: Vendor, serve: Serve) -> None:
    server = serve(say_nothing)
    request = Request(MESSAGES, options=vendor.options)
    request.cancelled.set()

    with pytest.raises(Cancelled):
        vendor.provider(server.url).complete(request)

    assert server.asked == []


def test_the_end_of_the_answer_is_its_end_though_the_connection_stays(vendor: Vendor, serve: Serve) -> None:
    server = serve(replace(vendor.text("Hello"), ending="stall"))
    provider = vendor.provider(server.url)
    started = time.monotonic()

    assert [vendor.ask(provider).text for _ in range(2)] == ["Hello", "Hello"]

    assert time.monotonic() - started < SOON_S


def test_nothing_after_the_end_of_the_answer_belongs_to_it(vendor: Vendor, serve: Serve) -> None:
    answer = vendor.text("Hello")
    server = serve(replace(answer, body=answer.body + vendor.encode(vendor.opening(" and more"))))
    provider = vendor.provider(server.url)

    assert [vendor.ask(provider).text for _ in range(2)] == ["Hello", "Hello"]


LONG: Message = {"role": "user", "content": "x" * 20_000_000}
"""Longer than the kernel takes while nobody reads."""


def test_a_server_that_does_not_take_the_request_is_a_timeout(vendor: Vendor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        provider = vendor.provider(f"http://127.0.0.1:{nobody.getsockname()[1]}", timeout_s=0.3)
        started = time.monotonic()

        with pytest.raises(TimedOut):
            provider.complete(Request([LONG], options={**vendor.options, "timeout_s": 60}))

        assert time.monotonic() - started < SOON_S


def test_a_server_that_refuses_a_long_request_before_its_end_is_heard(vendor: Vendor) -> None:
    def refuse(asked: Asked, wire: Wire) -> None:
        replace(vendor.error(413), headers={"Connection": "close"})(asked, wire)
        wire.gone()

    server = Server(refuse, impatient=True)
    got = outcome(lambda: vendor.provider(server.url).complete(Request([LONG], options=vendor.options)))
    server.close()

    assert isinstance(got, BadRequest)
    assert got.status == 413


def test_nobody_at_the_address_is_a_failed_connection(vendor: Vendor) -> None:
    server = Server(hang_up)
    server.close()

    with pytest.raises(ConnectionFailed) as caught:
        vendor.ask(vendor.provider(server.url))

    assert str(server.port) in str(caught.value)


def test_tls_with_a_server_that_speaks_none_is_a_failed_connection(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))

    with pytest.raises(ConnectionFailed):
        vendor.ask(vendor.provider(server.url.replace("http:", "https:"), timeout_s=2))


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:99999", "http://[::1", "ftp://127.0.0.1", "http://", "127.0.0.1:port", "http://x\ny"],
)
def test_an_address_that_is_none_is_told_and_not_tried_again(vendor: Vendor, address: str) -> None:
    got = outcome(lambda: vendor.ask(vendor.provider(address, timeout_s=1)))

    assert isinstance(got, NotReady | BadRequest)
