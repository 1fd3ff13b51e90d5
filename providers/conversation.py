"""One exchange with a vendor, from the request to the end of its answer; every failure is an error of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx

from providers.errors import ConnectionFailed, ServerError
from providers.faults import FOREIGN, Border
from providers.headers import request_id
from providers.http import Exchange, head, opened
from providers.reader import Json, Reader
from providers.sse import Document, Event, Framing, TooLongError

MAX_STREAM = 512 * 1024 * 1024
"""Bytes of an answer with all that is around its text: far more than the longest of today's takes."""

MAX_BODY, MAX_ERROR = 4 * 1024 * 1024, 64 * 1024
"""Bytes of another body that are read, and of one that tells of an error."""

AFTER_WHOLE_S, AFTER_OVER_S = 5.0, 0.25
"""How long is waited for what follows an answer: token counts; then its end alone, so that the connection is kept."""


async def converse(
    exchange: Exchange, reader: Reader, framing: type[Framing], border: Border
) -> httpx.Headers:
    """Send a request and let the reader read the answer until it is whole; give the headers it came with."""
    headers, begun = httpx.Headers(), None
    try:
        async with asyncio.timeout(exchange.total_s) as limit, opened(exchange) as response:
            headers, begun = response.headers, response.status_code
            if not response.is_success:
                raise border.answer(response.status_code, await head(response, MAX_ERROR), headers)
            await _Ear(reader, border, headers).listen(response, framing, limit)
    except FOREIGN as error:
        if not reader.whole:
            raise border.transport(error, exchange, begun) from error
    if not reader.whole:
        message = "the answer broke off before its end"
        raise ConnectionFailed(message, border.provider, begun, request_id=request_id(headers))
    return headers


async def fetch(exchange: Exchange, border: Border) -> bytes:
    """Send a request and give the body of its answer."""
    try:
        async with asyncio.timeout(exchange.total_s), opened(exchange) as response:
            body = await head(response, MAX_BODY)
    except FOREIGN as error:
        raise border.transport(error, exchange) from error
    if not response.is_success:
        raise border.answer(response.status_code, body, response.headers)
    return body


class _Ear:
    """Brings a body that began with HTTP 200 to its reader, event by event."""

    def __init__(self, reader: Reader, border: Border, headers: httpx.Headers) -> None:
        self.reader = reader
        self.border = border
        self.headers = headers

    async def listen(self, response: httpx.Response, framing: type[Framing], limit: asyncio.Timeout) -> None:
        frames, size = self._framing(framing), 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > MAX_STREAM:
                raise TooLongError
            self._take(frames.feed(chunk))
            if self.reader.whole:
                wait_s = AFTER_OVER_S if self.reader.over else AFTER_WHOLE_S
                limit.reschedule(min(limit.when() or 0.0, asyncio.get_running_loop().time() + wait_s))
        if not size:
            raise self._useless("is empty")
        self._take(frames.end())

    def _framing(self, streamed: type[Framing]) -> Framing:
        if self.headers.get("content-encoding", "identity") != "identity":
            raise self._useless("is compressed, which was not asked for")
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/html":
            raise self._useless("is a page of HTML, as proxies give")
        return Document() if kind == "application/json" else streamed()

    def _take(self, events: Iterator[Event]) -> None:
        for event in events:
            if event.data == "[DONE]":
                self.reader.done()
            if self.reader.over:
                return
            try:
                fault = self._told(_read_object(event))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise self._useless("is malformed") from error
            if fault:
                raise self.border.fault(fault, self.headers)

    def _told(self, event: Json) -> object:
        """Let the reader read an event, unless it tells of an error: that is returned."""
        fault = self.reader.fault(event)
        if not fault:
            self.reader.read(event)
        return fault

    def _useless(self, why: str) -> ServerError:
        return ServerError(f"the answer {why}", self.border.provider, 200, None, request_id(self.headers))


def _read_object(event: Event) -> Json:
    """Read an event's JSON; where it does not name its type, the event does."""
    said = json.loads(event.data)
    if not isinstance(said, dict):
        raise TypeError("not an object")
    return {"type": event.name, **said} if event.name else said
