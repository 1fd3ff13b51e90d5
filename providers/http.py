"""HTTP as providers use it: an event loop in a thread of its own, whose connections all threads of a process share.

One exchange is one attempt; who wants more attempts makes them. What httpx raises passes through here as it is and is
translated by `providers.faults`.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import ipaddress
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import httpcore
import httpx

from providers.errors import Cancelled

T = TypeVar("T")

LOOK_S = 0.1
"""How often a waiting caller looks whether it still wants the answer."""

CONNECT_S = 10.0
STALE_S = 0.5
"""A kept connection that ends later than that was not stale from the start: the server may have had the question."""
LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=100, keepalive_expiry=30.0)


class NoProxyError(Exception):
    """The environment names a proxy that cannot be used."""


class NoCertificatesError(Exception):
    """The environment names certificates that cannot be read."""


@contextmanager
def _certificates() -> Iterator[None]:
    """Tell of certificates that cannot be read: SSL_CERT_FILE and SSL_CERT_DIR name others than the usual ones."""
    try:
        yield
    except OSError as error:
        raise NoCertificatesError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request. `silence_s` bounds each wait for the other side, `total_s` the exchange as a whole."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str] = field(repr=False)  # a key is among them
    silence_s: float
    total_s: float
    body: bytes | None = None

    @property
    def timeouts(self) -> httpx.Timeout:
        """The same in httpx's terms."""
        return httpx.Timeout(self.silence_s, connect=min(CONNECT_S, self.silence_s))


def run(work: Coroutine[Any, Any, T], provider: str, cancelled: threading.Event | None = None) -> T:
    """Run a coroutine on the loop and wait for it; Cancelled, and the coroutine with it, once `cancelled` is set."""
    stop = cancelled or threading.Event()
    if stop.is_set():
        work.close()
        raise Cancelled("the call was cancelled", provider)
    future = asyncio.run_coroutine_threadsafe(work, _engine().loop)
    try:
        while not concurrent.futures.wait([future], LOOK_S).done:
            if stop.is_set():
                raise Cancelled("the call was cancelled", provider)
        return future.result()
    finally:
        future.cancel()


@asynccontextmanager
async def opened(exchange: Exchange) -> AsyncIterator[httpx.Response]:
    """Send a request; give the response once its head is there, its body still to be read.

    A server may close a kept-alive connection in the moment in which it is used again. That is no failure of the
    server, so the request is sent once more when no byte of an answer came on a connection that was not new.
    """
    response = await _sent(exchange)
    try:
        yield response
    finally:
        await response.aclose()


async def head(response: httpx.Response, size: int) -> bytes:
    """The beginning of a body, at most `size` bytes, or as much as comes before it breaks off.

    Nothing of one that is compressed: that was not asked for, and it may unpack to any size.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        return b""
    body = bytearray()
    with suppress(httpx.TransportError):
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) >= size:
                break
    return bytes(body[:size])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


async def _sent(exchange: Exchange, *, again: bool = True) -> httpx.Response:
    client = _engine().client(exchange.url)
    wire = _Wire()
    _wire.set(wire)
    request = client.build_request(
        exchange.method,
        exchange.url,
        headers=exchange.headers,
        content=exchange.body,
        timeout=exchange.timeouts,
        extensions={"trace": wire.trace},
    )
    clock = asyncio.get_running_loop().time
    sent = clock()
    try:
        response = await client.send(request, stream=True)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        if wire.new or wire.heard or not again or clock() - sent > STALE_S:
            raise
        return await _sent(exchange, again=False)
    if wire.heard:
        return response
    # It was there before the request: what a server sent unasked (RFC 9112, section 6.3) is nobody's answer.
    await response.aclose()
    if again:
        return await _sent(exchange, again=False)
    raise httpx.RemoteProtocolError("the server answers before it is asked", request=request)


@dataclass(slots=True)
class _Wire:
    """What is known of the connection that a request took: whether it was made for it, and whether a byte came."""

    new: bool = False
    heard: bool = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Hear what httpcore does; see https://www.python-httpx.org/advanced/extensions/#trace."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self.new = True
            _overhear(info["return_value"])


_wire: ContextVar[_Wire] = ContextVar("_wire")


def _overhear(stream: httpcore.AsyncNetworkStream) -> None:
    """Have a connection tell the request that reads from it when a byte comes: httpcore's errors do not say."""
    read = stream.read

    async def heard(max_bytes: int, timeout: float | None = None) -> bytes:
        data = await read(max_bytes, timeout)
        if data and (wire := _wire.get(None)):
            wire.heard = True
        return data

    vars(stream)["read"] = heard


@dataclass
class _Engine:
    """The loop, its thread, and the clients that live on it."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever, name="providers-http", daemon=True)
        self.thread.start()

    def client(self, url: httpx.URL) -> httpx.AsyncClient:
        """The client for a URL: this machine is never asked through a proxy."""
        return self.direct if is_loopback(url.host) else self.proxied

    @cached_property
    def direct(self) -> httpx.AsyncClient:
        with _certificates():
            return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(limits=LIMITS))

    @cached_property
    def proxied(self) -> httpx.AsyncClient:
        try:
            with _certificates():
                return httpx.AsyncClient(limits=LIMITS)
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise NoProxyError(str(error)) from error

    def close(self) -> None:
        """End the thread; what still runs on the loop is given up."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(1.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(1.0)
        if not self.thread.is_alive():
            self.loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in (self.__dict__.get("direct"), self.__dict__.get("proxied")):
            if client:
                await client.aclose()


class _Process:
    """The engine of this process, made when it is first needed."""

    def __init__(self) -> None:
        self.left_behind: list[_Engine] = []
        self.engine: _Engine | None = None
        self.lock = threading.Lock()

    def get(self) -> _Engine:
        with self.lock:
            if self.engine is None:
                self.engine = _Engine()
            return self.engine

    def forked(self) -> None:
        """Begin anew in a forked child: the parent's thread is not there, its sockets are the parent's."""
        self.lock = threading.Lock()
        if self.engine:
            self.left_behind.append(self.engine)
        self.engine = None

    def close(self) -> None:
        if self.engine:
            self.engine.close()


_process = _Process()
_engine = _process.get
os.register_at_fork(after_in_child=_process.forked)
atexit.register(_process.close)
