"""Services as processes: started as a user starts them, waited for, ended with the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.child import Child
from orchestrator.choices import Flags, resolve
from orchestrator.connection import connect
from orchestrator.embedded import find_redis, wait_for_redis
from orchestrator.history import fleet
from orchestrator.mirror import Mirror
from orchestrator.runfolder import RunFolder
from orchestrator.settings import Settings
from orchestrator.spec import load_spec
from orchestrator.stream import read_all

Eventually = Callable[..., None]
Service = subprocess.Popen[str]


@pytest.fixture
def eventually() -> Eventually:
    """Waits until something is true, and fails with what it is when it does not become so."""

    def wait(true: Callable[[], Any], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < deadline, f"it stayed {found!r}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def submit(orch) -> Callable[..., list[Path]]:
    """Submits a spec so many times, to the Redis of the command line; the run folders that the jobs will have."""

    def put(text: str, times: int = 1) -> list[Path]:
        settings = Settings(_env_file=None, provider=None, orch_redis_url=orch.env["ORCH_REDIS_URL"])
        loaded, jobs = load_spec(orch.folder / orch.spec(text)), fleet(settings)
        spec = resolve(loaded.spec, Flags(), settings, settings).spec
        ids = [jobs.submit(loaded, spec) for _ in range(times)]
        jobs.client.close()
        jobs.app.close()
        return [orch.folder / "runs" / job_id for job_id in ids]

    return put


@pytest.fixture
def status() -> Callable[[Path], str]:
    """What a run folder's manifest says of its job, "" while there is none."""

    def read(folder: Path) -> str:
        try:
            return str(json.loads((folder / "manifest.json").read_text())["status"])
        except FileNotFoundError:
            return ""

    return read


@pytest.fixture
def service(orch) -> Iterator[Callable[..., Service]]:
    """Starts commands that run until they are stopped; ends them after the test, with what they started."""
    with ExitStack() as ending:

        def start(*args: str, **env: str) -> Service:
            process = orch.start(*args, **env)
            ending.enter_context(process)
            ending.callback(_kill, process)
            return process

        yield start


def _kill(process: Service) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def unused_port() -> Callable[[], int]:
    """Finds ports on which nothing listens."""
    return _unused_port


@pytest.fixture
def free_port() -> int:
    """One of those."""
    return _unused_port()


@pytest.fixture
def workers_in_flower() -> Callable[..., list[str]]:
    """The names of the workers that the Flower on a port shows to a user; none while it does not answer."""

    def names(port: int | str, auth: str) -> list[str]:
        headers = {"Authorization": "Basic " + b64encode(auth.encode()).decode()}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/workers?refresh=1", headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return list(json.loads(answer.read()))
        except OSError:
            return []

    return names


class OwnRedis:
    """A Redis of the test's own, with a port and a password, that keeps its data when it is stopped."""

    PASSWORD = "s3cretOfRedis"

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.url = f"redis://:{self.PASSWORD}@127.0.0.1:{port}/0"
        self._command = [find_redis(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--requirepass", self.PASSWORD, "--appendonly", "yes", "--save", ""]
        self.start()

    def start(self) -> None:
        self._server = Child(self._command, self._folder / "redis.log")
        wait_for_redis(self.url, self._server)

    def stop(self) -> None:
        self._server.ask()
        self._server.wait(10)
        self._server.end()

    def client(self) -> redis.Redis:
        return connect(self.url)


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    folder = Path(tempfile.mkdtemp(prefix="orch-test-", dir="/tmp"))
    server = OwnRedis(folder, _unused_port())
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def require_whole(tmp_path: Path) -> Callable[[redis.Redis, Path], None]:
    """Compares a run folder with one that a mirror writes at a stretch, which nobody disturbs."""

    def check(client: redis.Redis, folder: Path) -> None:
        undisturbed = RunFolder(tmp_path / "undisturbed" / folder.name)
        with Mirror(client, undisturbed) as mirror:
            mirror.write(list(read_all(client, folder.name)))
        assert _contents(folder) == _contents(undisturbed.path)

    return check


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
