"""How threads, calls and processes share the connections of HTTP providers without a harm to each other."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from providers import Message, ProviderError, Request
from providers.errors import Cancelled, ConnectionFailed
from providers.http import STALE_S
from tests.wire.server import (
    Asked,
    Script,
    Serve,
    Server,
    Wire,
    and_then,
    flood,
    hang_up,
    in_turn,
    raw,
    reset,
)
from tests.wire.vendor import MESSAGES, Vendor, outcome
from tests.wire.vendors import VENDORS, only

pytest_plugins = ["tests.wire.fixtures"]
pytestmark = pytest.mark.integration

SOON_S = 5.0
"""Well above what anything here should take, well below the patience of the servers."""


def test_a_provider_uses_one_connection_for_calls_in_turn(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))
    provider = vendor.provider(server.url)

    for _ in range(5):
        assert vendor.ask(provider).text == "Hello"

    assert len(server.asked) == 5
    assert server.accepted == 1


def test_an_error_does_not_cost_the_connection(vendor: Vendor, serve: Serve) -> None:
    server = serve(in_turn(vendor.error(503), vendor.text("Hello")))
    provider = vendor.provider(server.url)

    with pytest.raises(ProviderError):
        vendor.ask(provider)

    assert vendor.ask(provider).text == "Hello"
    assert server.accepted == 1


@pytest.mark.parametrize("ending", [hang_up, reset])
def test_a_kept_connection_that_was_closed_in_between_is_no_failure(
    vendor: Vendor, serve: Serve, ending: Script
) -> None:
    server = serve(and_then(vendor.text("Hello"), ending))
    provider = vendor.provider(server.url)

    for _ in range(3):
        assert vendor.ask(provider).text == "Hello"

    assert len(server.asked) == 3


def test_a_kept_connection_that_closes_late_may_have_had_the_question(vendor: Vendor, serve: Serve) -> None:
    # given a server that works on the second question for a while before it gives up without a word
    def late(asked: Asked, wire: Wire) -> None:
        time.sleep(STALE_S + 0.3)
        wire.close()

    server = serve(in_turn(vendor.text("one"), late, vendor.text("two")))
    provider = vendor.provider(server.url)
    vendor.ask(provider)

    # then it is not asked again behind the back of who counts calls
    with pytest.raises(ConnectionFailed):
        vendor.ask(provider)
    assert len(server.asked) == 2


@pytest.mark.parametrize("ending", [hang_up, reset])
def test_a_kept_connection_that_closes_on_a_request_is_replaced_once(
    vendor: Vendor, serve: Serve, ending: Script
) -> None:
    server = serve(in_turn(vendor.text("one"), ending, vendor.text("two"), ending))
    provider = vendor.provider(server.url)

    assert vendor.ask(provider).text == "one"
    assert vendor.ask(provider).text == "two"
    with pytest.raises(ConnectionFailed):
        vendor.ask(provider)

    assert len(server.asked) == 5
    assert server.accepted == 3


def test_a_question_is_not_sent_again_once_a_byte_of_the_answer_came(vendor: Vendor, serve: Serve) -> None:
    for half in (b"HTTP/1.1 200 OK\r\nContent-", vendor.half().head(), b"H"):
        server = serve(in_turn(vendor.text("one"), raw(half), vendor.text("two")))
        provider = vendor.provider(server.url)
        vendor.ask(provider)

        with pytest.raises(ConnectionFailed):
            vendor.ask(provider)

        assert len(server.asked) == 2, half


def in_background(call: Any) -> Future[Any]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def test_what_a_server_sends_unasked_is_nobodys_answer(vendor: Vendor, serve: Serve) -> None:
    """See RFC 9112, section 6.3: it must not be taken for a response."""
    first, unasked = (replace(vendor.text(text), framing="length") for text in ("one", "unasked"))

    def script(asked: Asked, wire: Wire) -> None:
        wire.send(first.head() + first.body + unasked.head() + unasked.body)

    server = serve(in_turn(script, vendor.text("two")))
    provider = vendor.provider(server.url)

    assert [vendor.ask(provider).text for _ in range(3)] == ["one", "two", "two"]


def test_cancelling_a_call_leaves_the_others_alone(vendor: Vendor, serve: Serve) -> None:
    go_on = threading.Event()

    def script(asked: Asked, wire: Wire) -> None:
        if go_on.wait(SOON_S):
            vendor.text("Hello")(asked, wire)

    server = serve(script)
    provider = vendor.provider(server.url)
    requests = [Request(MESSAGES, options=vendor.options) for _ in range(4)]
    calls = [in_background(lambda request=request: provider.complete(request)) for request in requests]
    for _ in requests:
        server.arrived.get(timeout=SOON_S)

    requests[0].cancelled.set()
    assert isinstance(calls[0].exception(timeout=SOON_S), Cancelled)
    go_on.set()

    assert [call.result(timeout=SOON_S).text for call in calls[1:]] == ["Hello"] * 3


def test_sixty_four_threads_share_a_provider_and_each_gets_its_own_answer(
    vendor: Vendor, serve: Serve
) -> None:
    never = threading.Event()

    def echo(asked: Asked, wire: Wire) -> None:
        never.wait(0.5)
        vendor.text(*vendor.read(asked).turns[-1]["content"])(asked, wire)

    provider = vendor.provider(serve(echo).url)

    def call(number: int) -> str:
        message: Message = {"role": "user", "content": f"number {number}"}
        return provider.complete(Request([message], options=vendor.options)).text

    started = time.monotonic()
    with ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(call, range(64)))

    assert texts == [f"number {number}" for number in range(64)]
    assert time.monotonic() - started < 64 * 0.5 / 4


def test_calls_that_broke_do_not_use_up_the_connections(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.half(ending="cut"))
    provider = vendor.provider(server.url)

    for _ in range(220):
        assert isinstance(outcome(lambda: vendor.ask(provider)), ConnectionFailed)
    server.script = vendor.text("Hello")

    assert vendor.ask(provider).text == "Hello"


@only("openai-chat")
def test_calls_that_were_cancelled_do_not_use_up_the_connections(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.half(ending="stall"))
    provider = vendor.provider(server.url)
    for _round in range(4):
        requests = [Request(MESSAGES, options=vendor.options) for _ in range(64)]
        with ThreadPoolExecutor(64) as pool:
            calls = [
                pool.submit(outcome, lambda request=request: provider.complete(request))
                for request in requests
            ]
            for _ in requests:
                server.arrived.get(timeout=SOON_S)
            for request in requests:
                request.cancelled.set()
        assert all(isinstance(call.result(), Cancelled) for call in calls)
    server.script = vendor.text("Hello")

    assert vendor.ask(provider).text == "Hello"


@only("openai-chat")
def test_a_flood_in_one_call_does_not_starve_another(vendor: Vendor, serve: Serve) -> None:
    half = vendor.half()
    flooding, healthy = serve(flood(half, b": nothing\n\n" * 6000, 10**9)), serve(vendor.text("Hello"))
    flooded = in_background(lambda: vendor.ask(vendor.provider(flooding.url), timeout_s=1.5))
    flooding.arrived.get(timeout=SOON_S)

    assert vendor.ask(vendor.provider(healthy.url), timeout_s=SOON_S).text == "Hello"

    assert isinstance(flooded.exception(timeout=SOON_S), ProviderError)


def run_program(program: str, vendor: Vendor, url: str, **env: str) -> None:
    """Run a program that has a vendor and a provider, as a process of its own."""
    start = (
        "import os, sys\n"
        "from tests.wire.vendors import VENDORS\n"
        "vendor = VENDORS[int(sys.argv[1])]\n"
        "provider = vendor.provider(sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + program, str(VENDORS.index(vendor)), url],
        env={**os.environ, **env},
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@only("openai-chat")
def test_a_forked_child_has_connections_of_its_own_and_the_process_ends(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))

    run_program(
        "assert vendor.ask(provider).text == 'Hello'\n"
        "child = os.fork()\n"
        "texts = [vendor.ask(provider).text for _ in range(2)]\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "assert texts == ['Hello', 'Hello']\n",
        vendor,
        server.url,
    )

    assert len(server.asked) == 5
    assert server.accepted == 2


@only("openai-chat")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl")
def test_a_kept_connection_is_replaced_over_tls_too(vendor: Vendor, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    subprocess.run([*make, *subject, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = Server(in_turn(vendor.text("one"), hang_up, vendor.text("two")), tls=tls)

    run_program(
        "assert [vendor.ask(provider).text for _ in range(3)] == ['one', 'two', 'two']",
        vendor,
        server.url,
        SSL_CERT_FILE=str(certificate),
    )
    server.close()

    assert len(server.asked) == 4
    assert server.accepted == 2


@only("openai-chat")
def test_this_machine_is_not_asked_through_a_proxy(vendor: Vendor, serve: Serve) -> None:
    server, proxy = serve(vendor.text("Hello")), serve(vendor.text("I am the proxy"))
    names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")

    run_program(
        "assert vendor.ask(provider).text == 'Hello'", vendor, server.url, **dict.fromkeys(names, proxy.url)
    )

    assert proxy.accepted == 0
