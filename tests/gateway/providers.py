"""Providers that do as they are told: from a list of answers, or over HTTP from a server of the test's own."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from providers import Completion, Provider, ProviderError, Request, Usage
from providers.config import Config
from providers.errors import AuthFailed, BadRequest, ConnectionFailed, RateLimited, ServerError

Answer = str | Completion | ProviderError
Script = Callable[[Request], Answer]


def completion(text: str, tokens_in: int | None = 11, tokens_out: int | None = 7, **more: Any) -> Completion:
    """An answer in words that ended by itself."""
    return Completion(text, Usage(tokens_in, tokens_out), **{"finish_reason": "stop", "model": "m-1", **more})


class Scripted(Provider):
    """Gives prepared answers, one a call; an error among them is raised, what can be called is."""

    name: ClassVar[str] = "scripted"

    def __init__(
        self,
        *answers: Answer | Script,
        model: str | None = "m",
        endpoint: str | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__(model, config)
        self.endpoint = endpoint
        self.left = list(answers)
        self.asked: list[Request] = []
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Completion:
        with self._lock:
            self.asked.append(request)
            answer = self._next()
        found = answer(request) if callable(answer) else answer
        if isinstance(found, ProviderError):
            raise found
        if isinstance(found, Completion):
            return found
        return Completion(found, Usage(11, 7), "tool" if request.tool else "stop", "m-2026-01-01")

    def _next(self) -> Answer | Script:
        return self.left.pop(0)


class Always(Scripted):
    """Gives the same answer for ever."""

    def _next(self) -> Answer | Script:
        return self.left[0]


class Held:
    """An answer that is not given before it is let go."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked = threading.Event()
        self.go = threading.Event()

    def __call__(self, request: Request) -> Answer:
        self.asked.set()
        assert self.go.wait(15)
        return self.answer


class OverHttp(Provider):
    """Asks a `Backend`, which may be in another process."""

    name: ClassVar[str] = "openai"

    def __init__(self, address: str, model: str = "m", config: Config | None = None) -> None:
        super().__init__(model, config)
        self.endpoint = address

    def complete(self, request: Request) -> Completion:
        asked = urllib.request.Request(
            f"{self.endpoint}/", json.dumps({"messages": list(request.messages)}).encode()
        )
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return completion(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                after = error.headers.get("Retry-After")
                kind = _ERRORS.get(error.code, ServerError)
            raise kind("it was turned down", self.name, error.code, float(after) if after else None) from None
        except OSError as error:
            raise ConnectionFailed(str(error), self.name) from error


_ERRORS: Mapping[int, type[ProviderError]] = {
    400: BadRequest,
    401: AuthFailed,
    404: BadRequest,
    422: BadRequest,
    429: RateLimited,
}


class Backend:
    """A server that answers as `reply` says: status and text, and perhaps how long to stay away.

    `seen` are the times at which calls came, `most` is how many there were at once.
    """

    def __init__(self, reply: Callable[[int], tuple[int, str] | tuple[int, str, float]]) -> None:
        self.reply = reply
        self.seen: list[float] = []
        self.most = 0
        self._running = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self) -> tuple[int, str, float | None]:
        with self._lock:
            self.seen.append(time.monotonic())
            number = len(self.seen)
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            status, text, *after = self.reply(number)
            return status, text, after[0] if after else None
        finally:
            with self._lock:
                self._running -= 1


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, text, after = backend.answer()
            try:
                self.send_response(status)
                if after is not None:
                    self.send_header("Retry-After", str(after))
                self.end_headers()
                self.wfile.write(text.encode())
            except OSError:
                pass  # who asked is dead

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
