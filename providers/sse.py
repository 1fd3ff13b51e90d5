"""How streamed bodies are cut into messages: server-sent events, a JSON object a line, or one JSON document.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import codecs
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

MAX_LINE = 4 * 1024 * 1024
"""Characters; an event of several lines may have as many in all."""

MAX_DOCUMENT = 32 * 1024 * 1024


class TooLongError(Exception):
    """More than is kept in memory."""


class Event(NamedTuple):
    """One message; `name` is "" where the stream does not name it."""

    name: str
    data: str


class Framing(ABC):
    """Cuts a body into messages as it comes in, wherever its chunks end; lines may end in CR, LF or CRLF."""

    def __init__(self) -> None:
        utf8 = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
        self._rest = ""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take a part of the body; give the messages that it completes."""
        return self._lines(self._decoder.decode(chunk))

    def end(self) -> Iterator[Event]:
        """Take note that the body has ended; give the messages that this completes."""
        return self._lines(self._decoder.decode(b"", final=True))

    def _lines(self, text: str) -> Iterator[Event]:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            yield from self._line(_bounded(line))
        _bounded(self._rest)

    @abstractmethod
    def _line(self, line: str) -> Iterator[Event]: ...


class EventStream(Framing):
    """Server-sent events; one that the end of the body cuts off is dropped, as the standard says."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def _line(self, line: str) -> Iterator[Event]:
        if not line:
            yield from self._dispatched()
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
            self._size += len(value)
            if self._size > MAX_LINE:
                raise TooLongError

    def _dispatched(self) -> Iterator[Event]:
        event = Event(self._name, "\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        if event:
            yield event


class JsonLines(Framing):
    """One JSON object a line; the last one needs no line end, unless it is cut off."""

    def end(self) -> Iterator[Event]:
        """Give the last line, where nothing ended it; see Framing."""
        yield from super().end()
        with suppress(ValueError, RecursionError):
            json.loads(self._rest)
            yield from self._line(self._rest)

    def _line(self, line: str) -> Iterator[Event]:
        if line.strip():
            yield Event("", line)


class Document(Framing):
    """One JSON document, whole at the end of the body."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._size = 0

    def _lines(self, text: str) -> Iterator[Event]:
        self._parts.append(text)
        self._size += len(text)
        if self._size > MAX_DOCUMENT:
            raise TooLongError
        return iter(())

    def _line(self, line: str) -> Iterator[Event]:
        if line.strip():
            yield Event("", line)

    def end(self) -> Iterator[Event]:
        """Give the document; see Framing."""
        yield from super().end()
        yield from self._line("".join(self._parts))


def _bounded(line: str) -> str:
    if len(line) > MAX_LINE:
        raise TooLongError
    return line
