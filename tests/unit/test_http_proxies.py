"""Which way a request takes: through the proxy of the environment, but never to this machine itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

PROGRAM = """
import sys
from providers.config import Config
from providers.errors import ProviderError
from providers.openai import OpenAIProvider
try:
    provider = OpenAIProvider("m", Config(timeout_s=5, openai_base_url=sys.argv[1]))
    print(provider.generate([{"role": "user", "content": "Hello"}]).text)
except ProviderError as error:
    print(type(error).__name__, error)
"""


class Heard(ThreadingHTTPServer):
    """A server that answers every question with its address line, as proxy and as server."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lines: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Heard

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.lines.append(self.path)
        choice = {"message": {"content": "Hello"}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Heard]:
    server = Heard()
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(url: str, **env: str) -> str:
    """Ask in a process of its own, because the environment's proxies are read once."""
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url],
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_another_machine_is_asked_through_the_proxy(server: Heard) -> None:
    assert ask("http://models.invalid/v1", HTTP_PROXY=server.url) == "Hello"

    assert server.lines == ["http://models.invalid/v1/chat/completions"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_never_asked_through_a_proxy(server: Heard, host: str) -> None:
    nowhere = "http://127.0.0.1:9"

    url = server.url.replace("127.0.0.1", host)
    assert ask(url, HTTP_PROXY=nowhere, ALL_PROXY=nowhere, HTTPS_PROXY=nowhere) == "Hello"

    assert server.lines == ["/v1/chat/completions"]


def test_a_proxy_that_cannot_be_used_is_told() -> None:
    assert ask("http://models.invalid/v1", HTTP_PROXY="gopher://x").startswith("NotReady openai: the proxy")
