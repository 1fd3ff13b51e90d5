"""A Redis with AOF and workers, as the benchmarks use them. All of it ends with the benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from orchestrator.celery_app import make_app
from orchestrator.child import Child
from orchestrator.connection import connect
from orchestrator.embedded import redis_command, wait_for_redis
from orchestrator.jobs import Jobs
from orchestrator.names import QUEUE
from orchestrator.workers import worker_command

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fleet:
    """A running one."""

    folder: Path
    url: str
    client: redis.Redis
    stack: contextlib.ExitStack

    @property
    def jobs(self) -> Jobs:
        """Its jobs."""
        return Jobs(self.client, make_app(self.url), 3600)

    def start_worker(self, slots: int, **env: str) -> Child:
        """Start a worker of orch with a threads pool."""
        return self._start(worker_command(slots, name=f"w{os.urandom(3).hex()}@%h"), env)

    def start_raw_worker(self, slots: int) -> Child:
        """Start a Celery worker of the same kind that serves empty tasks."""
        options = ["--pool", "threads", "--concurrency", str(slots), "--queues", QUEUE]
        options += ["--without-mingle", "--without-gossip", "--loglevel", "WARNING"]
        return self._start(
            [
                sys.executable,
                "-m",
                "celery",
                "--app",
                "raw_celery",
                "--workdir",
                str(HERE),
                "--quiet",
                "worker",
                *options,
            ],
            {},
        )

    def _start(self, command: list[str], env: dict[str, str]) -> Child:
        environment = {
            **os.environ,
            "ORCH_REDIS_URL": self.url,
            "ORCH_RUNS_DIR": str(self.folder / "runs"),
            **env,
        }
        child = Child(command, self.folder / "worker.log", environment)
        self.stack.callback(child.end)
        return child


@contextlib.contextmanager
def fleet() -> Iterator[Fleet]:
    """Start a Redis of its own."""
    folder = Path(tempfile.mkdtemp(prefix="orch-bench-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        durable = ["--appendonly", "yes", "--appendfsync", "everysec"]
        server = Child([*redis_command(folder), *durable], folder / "redis.log")
        stack.callback(server.end)
        url = f"unix://{folder / 'redis.sock'}"
        wait_for_redis(url, server)
        yield Fleet(folder, url, connect(url), stack)
