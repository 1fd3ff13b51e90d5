"""What every HTTP provider makes of a server that talks nonsense, or too much: one typed error, in bounded memory."""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest

from providers import Completion, ProviderError
from providers.errors import BadRequest, Cancelled, InvalidAnswer, Retryable, ServerError
from providers.types import FinishReason
from tests.wire.server import Answer, Script, Serve, flood, in_turn, raw
from tests.wire.vendor import Vendor, outcome

pytest_plugins = ["tests.wire.fixtures"]
pytestmark = pytest.mark.integration

SOON_S = 5.0
"""Well above what anything here should take, well below the patience of the servers."""

MIB = 1024 * 1024


@pytest.mark.parametrize(
    "broken",
    ["{not json", "[" * 100_000, '{"a": "b', "[]", "null", "5", '"text"', r'{"\ud800": 1}'],
    ids=lambda text: text[:9],
)
def test_a_stream_with_an_event_that_is_no_object_is_a_typed_error_or_passed_over(
    vendor: Vendor, serve: Serve, broken: str
) -> None:
    events = [*vendor.opening("Hel"), broken, *vendor.closing(text="Hel")]
    server = serve(vendor.stream(events))

    got = outcome(lambda: vendor.ask(vendor.provider(server.url)))

    assert isinstance(got, Retryable | InvalidAnswer) or got.text == "Hel"


def test_bytes_that_are_no_text_do_not_break_the_reader(vendor: Vendor, serve: Serve) -> None:
    answer = vendor.text("Hel~lo")
    for wrong in (b"\xff", b"\xc3", b"\xf0\x9f", b"\xed\xa0\x80"):
        server = serve(replace(answer, body=answer.body.replace(b"~", wrong)))

        got = outcome(lambda url=server.url: vendor.ask(vendor.provider(url)))

        assert isinstance(got, ProviderError) or got.text.encode()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "text/event-stream"),
        (b"", "application/x-ndjson"),
        (b"", "application/json"),
        (b"", "text/plain"),
        (b"\n\n\n", "text/event-stream"),
        (b"<html><body>Sign in to the hotel's network</body></html>", "text/html"),
        (b"<html>", "text/event-stream"),
        (b"<html>", "application/json"),
        (b"{}", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'"text"', "application/json"),
        (b'{"choices": [], "output": [], "content": [], "message": {}}', "application/json"),
        (b'{"choices": null, "output": null, "content": null, "message": null}', "application/json"),
        (b'{"choices": 5, "output": 5, "content": 5, "message": 5, "done": true}', "application/json"),
        (b"data: {}\n\ndata: [DONE]\n\n", "text/event-stream"),
        (b"data: [DONE]\n\n", "text/event-stream"),
        (b"[" * 100_000, "application/json"),
        (b"\x00\x01\x02", "application/octet-stream"),
    ],
)
def test_a_body_that_is_no_answer_is_a_typed_error(
    vendor: Vendor, serve: Serve, body: bytes, content_type: str
) -> None:
    server = serve(Answer(body, content_type=content_type, framing="length"))

    with pytest.raises(ProviderError) as caught:
        vendor.ask(vendor.provider(server.url))

    assert not isinstance(caught.value, Cancelled)


def test_an_answer_without_a_content_type_is_read_for_what_it_is(vendor: Vendor, serve: Serve) -> None:
    plain = json.dumps(vendor.plain("Hello")).encode()
    for body in (plain, vendor.text("Hello").body):
        server = serve(raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body))

        got = outcome(lambda url=server.url: vendor.ask(vendor.provider(url)))

        assert isinstance(got, ProviderError) or got.text == "Hello"


STRANGE: list[Any] = [[], {}, "7", -1, True, math.nan, [None], {"a": []}]


def test_no_value_of_a_wrong_kind_anywhere_breaks_the_reader(vendor: Vendor, serve: Serve) -> None:
    whole = [*vendor.opening("Hel"), *vendor.closing(text="Hel")]
    streams = [vendor.stream(events) for events in mutated(whole)]
    tools = [vendor.stream(events) for events in mutated(vendor.calling("write_plan", '{"a": 1}'))]
    plain = [Answer(json.dumps(body).encode()) for body in mutated(vendor.plain("Hel"))]
    answers = [*streams, *tools, *plain]
    server = serve(in_turn(*answers))
    provider = vendor.provider(server.url)

    wrong = []
    for answer in answers:
        try:
            got = outcome(lambda: vendor.ask(provider))
        except Exception as error:  # noqa: BLE001  # each is told, not the first alone
            wrong.append((error, answer.body))
        else:
            wrong += [] if well_formed(got) else [(got, answer.body)]

    assert wrong == []
    assert len(server.asked) == len(answers)


def mutated(document: Any) -> Iterator[Any]:
    """Give copies of a document in each of which one part is gone, null, or of another kind."""
    strange = itertools.cycle(STRANGE)

    def variants(value: Any) -> Iterator[Any]:
        parts = (
            range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else []
        )
        for part in parts:
            for other in (None, next(strange), next(strange), next(strange), *variants(value[part])):
                copy = value.copy()
                copy[part] = other
                yield copy
            copy = value.copy()
            del copy[part]
            yield copy

    return variants(document)


def well_formed(got: Completion | ProviderError) -> bool:
    """Whether what came of a call is what callers rely on."""
    if isinstance(got, ProviderError):
        return not isinstance(got, Cancelled)
    usage = got.usage
    counts = [usage.tokens_in, usage.tokens_out, usage.cached_in, usage.cache_written]
    return (
        isinstance(got.text, str)
        and isinstance(got.model, str)
        and got.finish_reason in get_args(FinishReason)
        and all(count is None or (type(count) is int and count >= 0) for count in counts)
        and None not in counts[2:]
    )


BLOCK = b"x" * (MIB // 16)
TIMES = 16 * 100


@cache
def bomb() -> bytes:
    """A hundred megabytes in a hundred kilobytes."""
    return gzip.compress(BLOCK * TIMES, 1)


def endless(vendor: Vendor, what: str) -> Script:
    """Return a script that writes a hundred megabytes of something."""
    opening = vendor.stream(vendor.opening("a"))
    document = Answer(b'{"error": "')
    match what:
        case "deltas":
            return flood(opening, vendor.encode(vendor.opening(BLOCK.decode())[-1:]), TIMES)
        case "one line":
            return flood(replace(opening, body=opening.body + b"data: "), BLOCK, TIMES)
        case "one document":
            return flood(document, BLOCK, TIMES)
        case "error":
            return flood(replace(document, status=500), BLOCK, TIMES)
        case "head":
            return raw(b"HTTP/1.1 200 OK\r\n" + b"x-long: %s\r\n" % BLOCK * 160)
    status = 500 if what == "error bomb" else 200
    return Answer(bomb(), status, vendor.content_type, {"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    "what", ["deltas", "one line", "one document", "error", "head", "bomb", "error bomb"]
)
def test_an_answer_of_a_hundred_megabytes_is_an_error_and_is_not_kept(
    vendor: Vendor, serve: Serve, what: str
) -> None:
    script = endless(vendor, what)
    server = serve(script)
    provider = vendor.provider(server.url)

    with peak() as memory, pytest.raises(ProviderError) as caught:
        vendor.ask(provider)

    assert memory() < 64 * MIB
    assert isinstance(caught.value, ServerError) or "error" not in what
    assert len(str(caught.value)) < 2000


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Measure how many bytes more than at the start Python has held at once; to be asked after the end."""
    most = 0
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: most
    most = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


def test_a_flood_of_nothing_ends_at_the_total_deadline(vendor: Vendor, serve: Serve) -> None:
    nothing = b"\n" * 65536 if vendor.name == "ollama" else b": nothing\n\n" * 6000
    server = serve(flood(vendor.half(), nothing, 10**9))
    started = time.monotonic()

    with pytest.raises(ProviderError):
        vendor.ask(vendor.provider(server.url), timeout_s=0.5)

    assert time.monotonic() - started < SOON_S


@pytest.mark.parametrize(
    "talk",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"220 mail ready\r\n" * 50,
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: morse\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n{}",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"\r\n\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_typed_error(vendor: Vendor, serve: Serve, talk: bytes) -> None:
    server = serve(raw(talk))

    with pytest.raises(ProviderError) as caught:
        vendor.ask(vendor.provider(server.url))

    assert not isinstance(caught.value, Cancelled | BadRequest)


def test_a_body_whose_compression_is_broken_is_a_typed_error(vendor: Vendor, serve: Serve) -> None:
    packed = gzip.compress(vendor.text("Hello").body)
    for coding, body in [
        ("gzip", b"not gzip"),
        ("gzip", packed[:-20]),
        ("deflate", b"\x00" * 9),
        ("br", b"\xff"),
    ]:
        answer = vendor.text("Hello")
        server = serve(replace(answer, body=body, headers={"Content-Encoding": coding}))

        got = outcome(lambda url=server.url: vendor.ask(vendor.provider(url)))

        assert isinstance(got, ProviderError) or got.text == "Hello", coding
