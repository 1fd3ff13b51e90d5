"""Real parts for tests: a Redis server, clients of it, and the command line as a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.child import Child
from orchestrator.connection import connect
from orchestrator.embedded import redis_command, wait_for_redis
from orchestrator.state import State
from orchestrator.workers import worker_command

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server of the session's own, on a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="orch-test-", dir="/tmp"))
    server = Child(redis_command(folder), folder / "redis.log")
    url = f"unix://{folder / 'redis.sock'}"
    wait_for_redis(url, server)
    yield url
    server.end()
    shutil.rmtree(folder)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty Redis."""
    client = connect(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def state(client: redis.Redis) -> State:
    return State(client)


@dataclass(frozen=True)
class Ran:
    """What a command line left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """Runs `orch` as a user does, in a folder of its own."""

    folder: Path
    env: dict[str, str]

    def __call__(self, *args: str, timeout: float = 60, **env: str) -> Ran:
        done = subprocess.run(
            [*ORCH, *args],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start it and do not wait."""
        return subprocess.Popen(
            [*ORCH, *args],
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def spec(self, text: str, name: str = "spec.yaml") -> str:
        """Write a spec file; returns its name."""
        (self.folder / name).write_text(text)
        return name

    @property
    def runs(self) -> list[Path]:
        """The run folders there are, oldest first."""
        return sorted(self.folder.glob("runs/job_*"), key=lambda path: path.stat().st_ctime_ns)

    def events(self, job_id: str | None = None) -> list[dict[str, Any]]:
        """The events of a run folder, by default the newest."""
        folder = self.folder / "runs" / job_id if job_id else self.runs[-1]
        return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


ORCH = [str(Path(sys.executable).parent / "orch")]


@pytest.fixture
def orch(tmp_path: Path) -> CommandLine:
    """The command line, with none of the developer's own settings."""
    ours = ("ORCH_", "PROVIDER", "OPENAI_", "ANTHROPIC_", "OLLAMA_", "CONCURRENCY")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    _share_venvs(tmp_path)
    env["OLLAMA_HOST"] = "http://127.0.0.1:9"  # nobody answers: no test asks the developer's models
    return CommandLine(tmp_path, env)


def _share_venvs(folder: Path) -> None:
    """Have all runs of all tests find the environments that qa has made for generated projects."""
    shared = Path.home() / ".cache" / "unified-orchestrator-tests" / "venvs"
    shared.mkdir(parents=True, exist_ok=True)
    place = folder / "runs" / ".venvs"
    place.parent.mkdir(exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(shared)


@pytest.fixture
def start_worker(redis_url: str, client: redis.Redis, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts workers on the session's Redis, which is emptied first; ends them after the test."""
    started: list[Child] = []
    _share_venvs(tmp_path)

    def start(concurrency: int = 4, **env: str) -> Child:
        environment = {
            **os.environ,
            "ORCH_REDIS_URL": redis_url,
            "ORCH_RUNS_DIR": str(tmp_path / "runs"),
            **env,
        }
        name = f"worker-{len(started)}@%h"
        log = tmp_path / f"worker-{len(started)}.log"
        started.append(Child(worker_command(concurrency, name=name), log, environment))
        return started[-1]

    yield start
    for child in started:
        child.end()
