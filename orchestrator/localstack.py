"""`orch up`: the whole stack on one machine, which ends with this process, however it ends.

What outlives it is in the folder `.up` below the runs: the data of its Redis, the logs of its services. The next
`orch up` goes on from there.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator import pointer
from orchestrator.atomic import lock, locked
from orchestrator.child import Child
from orchestrator.embedded import private_folder, redis_command, wait_for_redis
from orchestrator.errors import EnvironmentNotReady
from orchestrator.settings import Settings
from orchestrator.supervisor import FIRST_PAUSE_S, HEALTHY_S, LONGEST_PAUSE_S
from orchestrator.workers import worker_command

LOOK_S = 0.25
PREDECESSOR_S = 10.0
REDIS_STOP_S = 5.0
MIRROR_STOP_S = 5.0
STUBBORN_S = 5.0
"""How long a worker may take beyond its grace."""


@dataclass
class Service:
    """One process of the stack, started again when it ends by itself.

    `stop_s` is how long it may take to end when it is asked to.
    """

    name: str
    command: list[str]
    env: Mapping[str, str]
    log: Path
    stop_s: float

    def __post_init__(self) -> None:
        self.log.unlink(missing_ok=True)
        self._pause_s = FIRST_PAUSE_S
        self._start()

    def _start(self) -> None:
        self.child = Child(self.command, self.log, self.env)
        self._since = time.monotonic()
        self._due: float | None = None

    def look(self, now: float) -> str | None:
        """Start it again if it has ended, after a pause; returns what to tell of it, once for each end."""
        if self._due is not None:
            if now >= self._due:
                self._start()
            return None
        if (code := self.child.poll()) is None:
            return None
        healthy = now - self._since > HEALTHY_S
        self._pause_s = FIRST_PAUSE_S if healthy else min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._due = now + self._pause_s
        return f"{self.name} ended by itself (exit code {code}); again in {self._pause_s:g} s. Its log: {self.log}"

    def stop(self) -> None:
        """Ask it to end, and kill it when it does not."""
        if self.child.poll() is None:
            self.child.ask()
            self.child.wait(self.stop_s)
        self.kill()

    def kill(self) -> None:
        """End it now."""
        self.child.end()


class LocalStack:
    """A running stack: its Redis, and the services in the order in which they are stopped."""

    def __init__(self, url: str, services: list[Service]) -> None:
        self.url = url
        self._services = services

    def run(self, stop: threading.Event, tell: Callable[[str], None]) -> None:
        """Keep it running until told to stop."""
        while not stop.wait(LOOK_S):
            for service in self._services:
                if said := service.look(time.monotonic()):
                    tell(said)

    def stop(self) -> None:
        """Ask the services to end, one after the other, so that each can still talk to those it needs."""
        for service in self._services:
            service.stop()

    def kill(self) -> None:
        """End whatever still runs."""
        for service in self._services:
            service.kill()


@contextmanager
def local_stack(
    settings: Settings, concurrency: int, flower: list[str] | None, env: Mapping[str, str]
) -> Iterator[LocalStack]:
    """Start the stack, give it, and end all of it.

    Args:
        settings: This machine's.
        concurrency: Steps that the worker runs at once.
        flower: The command line of Flower, None for none.
        env: What the services' environment has beside this process's.

    Raises:
        EnvironmentNotReady: Another one runs for the same runs, or Redis did not start.
    """
    home = pointer.home(settings.orch_runs_dir)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if locked(home):
        raise EnvironmentNotReady(
            f"an `orch up` is running for {settings.orch_runs_dir}/ already: one is enough"
        )
    with ExitStack() as ending:
        ending.enter_context(lock(home))
        _outlive_predecessor(home)
        folder = private_folder()
        ending.callback(shutil.rmtree, folder, ignore_errors=True)
        ending.enter_context(lock(folder))
        server = Service(
            "Redis", persistent_redis(folder, home), os.environ, home / "redis.log", REDIS_STOP_S
        )
        ending.callback(server.kill)
        url = f"unix://{folder / 'redis.sock'}"
        wait_for_redis(url, server.child)
        env = {**os.environ, **env, "ORCH_REDIS_URL": url, "ORCH_RUNS_DIR": str(home.parent)}
        stack = LocalStack(url, [*_services(settings, concurrency, flower, env), server])
        ending.callback(stack.kill)
        pointer.write(home, url)
        ending.callback(pointer.remove, home)
        yield stack
        pointer.remove(home)
        stack.stop()


def persistent_redis(folder: Path, home: Path) -> list[str]:
    """A Redis that listens in `folder` alone, as the embedded one does, and keeps its data in `home`."""
    return [*redis_command(folder), "--dir", str(home), "--appendonly", "yes", "--appendfsync", "everysec"]


def _services(
    settings: Settings, concurrency: int, flower: list[str] | None, env: Mapping[str, str]
) -> Iterator[Service]:
    home = pointer.home(settings.orch_runs_dir)
    if flower:
        yield Service("Flower", flower, env, home / "flower.log", STUBBORN_S)
    worker = worker_command(concurrency, settings.orch_log_level)
    yield Service("the worker", worker, env, home / "worker.log", settings.orch_worker_grace_s + STUBBORN_S)
    mirror = [sys.executable, "-m", "orchestrator", "mirror", "--quiet"]
    yield Service("the mirror", mirror, env, home / "mirror.log", MIRROR_STOP_S)


def _outlive_predecessor(home: Path) -> None:
    """Wait until the Redis of an `orch up` that was killed is gone: two of them must not write the same file."""
    deadline = time.monotonic() + PREDECESSOR_S
    while url := pointer.last(home):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(url.removeprefix("unix://"))
            except OSError:
                pointer.remove(home)
        if time.monotonic() > deadline:
            raise EnvironmentNotReady(f"the Redis of an earlier `orch up` still runs ({url}): end it first")
        time.sleep(LOOK_S / 10)
