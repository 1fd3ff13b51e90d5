"""A small HTTP/1.1 server on a real socket: every write, stall and cut is the test's own."""

from __future__ import annotations

import json
import queue
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

PATIENCE_S = 20.0
"""How long a script waits for the client before it gives up."""


@dataclass(frozen=True)
class Asked:
    """One request as it came in; header names are in lower case, `connection` counts from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, number: int, left: threading.Event) -> None:
        self.number = number
        self._sock = sock
        self._left = left
        self._buffer = b""
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def secure(self, tls: ssl.SSLContext) -> None:
        """Speak TLS from here on."""
        self._sock = tls.wrap_socket(self._sock, server_side=True)

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def gone(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait for the client to leave; what it still sends is dropped."""
        self._sock.settimeout(timeout_s)
        try:
            while self._sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        self._left.set()
        return True

    def close(self) -> None:
        """End the connection as a server does that has said all it has to say."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def reset(self) -> None:
        """Tear the connection down: the client gets a reset, not an end."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def read(self, *, whole: bool = True) -> Asked | None:
        """Return the next request; None when the client has left, or does not speak HTTP.

        Where it need not be `whole`, it is given as soon as its head is there.
        """
        while b"\r\n\r\n" not in self._buffer:
            if not self._more() or not self._buffer[:1].isalpha():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = start.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", 0)) if whole else 0
        while len(self._buffer) < size:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Asked(method, path, headers, body, self.number)

    def _more(self) -> bool:
        data = self._sock.recv(65536)
        self._buffer += data
        return bool(data)


Script = Callable[[Asked, Wire], None]
"""Answers one request; it may close the wire."""


class Server:
    """Listens on a free port of this machine until it is closed; one thread a connection.

    With `impatient` a request is answered before its body is read. `arrived` has each request as it comes, `left` is
    set once a client has gone away while a script waited for it.
    """

    def __init__(self, script: Script, *, impatient: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._impatient = impatient
        self._tls = tls
        self.asked: list[Asked] = []
        self.arrived: queue.Queue[Asked] = queue.Queue()
        self.left = threading.Event()
        self._closing = threading.Event()
        self._wires: list[Wire] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._start(self._accept)

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return len(self._wires)

    def close(self) -> None:
        """Close every connection and wait for the threads."""
        if self._closing.is_set():
            return
        self._closing.set()
        socket.create_connection(
            ("127.0.0.1", self.port)
        ).close()  # not every system wakes an accept otherwise
        self._threads[0].join(PATIENCE_S)
        self._listener.close()
        for wire in self._wires:
            wire.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._closing.is_set():
                sock.close()
                return
            self._wires.append(Wire(sock, len(self._wires) + 1, self.left))
            self._start(self._converse, self._wires[-1])

    def _converse(self, wire: Wire) -> None:
        with suppress(OSError):
            if self._tls:
                wire.secure(self._tls)
            while asked := wire.read(whole=not self._impatient):
                self.asked.append(asked)
                self.arrived.put(asked)
                self.script(asked, wire)
        wire.close()


Serve = Callable[[Script], Server]
"""What starts a server for a test."""

Framing = Literal["chunked", "length", "close"]
Ending = Literal["whole", "cut", "reset", "stall"]

_REASONS = {200: "OK", 302: "Found"}


@dataclass(frozen=True)
class Answer:
    """A script that writes one response.

    Args:
        body: What the response holds.
        framing: How the client learns where the body ends.
        piece: Bytes of the body for each write and chunk; None writes it in one.
        ending: After the body: end it properly, close or reset the connection without that, or say nothing more
            until the client leaves.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = "chunked"
    piece: int | None = None
    ending: Ending = "whole"

    def __call__(self, asked: Asked, wire: Wire) -> None:
        wire.send(self.head())
        self.write(wire, self.body, self.piece)
        self.end(wire)

    def head(self) -> bytes:
        """Return the status line and the headers."""
        framing = {
            "chunked": {"Transfer-Encoding": "chunked"},
            "length": {"Content-Length": str(len(self.body) + (self.ending != "whole"))},
            "close": {"Connection": "close"},
        }
        headers = {"Content-Type": self.content_type, **framing[self.framing], **self.headers}
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def write(self, wire: Wire, data: bytes, piece: int | None = None) -> None:
        """Write a part of the body."""
        size = piece or len(data) or 1
        for start in range(0, len(data), size):
            part = data[start : start + size]
            wire.send(b"%x\r\n%s\r\n" % (len(part), part) if self.framing == "chunked" else part)

    def end(self, wire: Wire) -> None:
        """End the response as ordered."""
        if self.ending == "stall":
            wire.gone()
        elif self.ending == "reset":
            wire.reset()
        elif self.ending == "cut" or self.framing == "close":
            wire.close()
        elif self.framing == "chunked":
            wire.send(b"0\r\n\r\n")


def in_turn(*scripts: Script) -> Script:
    """Answer the first request with the first script, and so on; the last answers all that follow."""
    left = list(scripts)
    lock = threading.Lock()

    def script(asked: Asked, wire: Wire) -> None:
        with lock:
            now = left.pop(0) if len(left) > 1 else left[0]
        now(asked, wire)

    return script


def and_then(first: Script, second: Script) -> Script:
    """Let two scripts answer one request."""

    def script(asked: Asked, wire: Wire) -> None:
        first(asked, wire)
        second(asked, wire)

    return script


def flood(answer: Answer, piece: bytes, times: int) -> Script:
    """Write an answer's body, and then a piece so many times, as long as the client takes it."""

    def script(asked: Asked, wire: Wire) -> None:
        wire.send(answer.head())
        answer.write(wire, answer.body)
        for _ in range(times):
            answer.write(wire, piece)
        answer.end(wire)

    return script


def drip(start: bytes, drop: bytes, gap_s: float) -> Script:
    """Write raw bytes, and then a drop at a time for as long as the client stays, or until patience ends."""

    def script(asked: Asked, wire: Wire) -> None:
        wire.send(start)
        for _ in range(int(PATIENCE_S / gap_s)):
            if wire.gone(gap_s):
                return
            wire.send(drop)
        wire.close()

    return script


def hang_up(asked: Asked, wire: Wire) -> None:
    """Close the connection without a word."""
    wire.close()


def reset(asked: Asked, wire: Wire) -> None:
    """Tear the connection down without a word."""
    wire.reset()


def say_nothing(asked: Asked, wire: Wire) -> None:
    """Take the request and never answer."""
    wire.gone()


def raw(data: bytes) -> Script:
    """Write these bytes, whatever they are, and close."""

    def script(asked: Asked, wire: Wire) -> None:
        wire.send(data)
        wire.close()

    return script
