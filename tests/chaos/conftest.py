"""A fleet that can be hurt: a Redis to kill, freeze and fill, supervised workers, a network to cut."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.celery_app import make_app
from orchestrator.child import Child
from orchestrator.connection import connect
from orchestrator.embedded import find_redis, wait_for_redis
from orchestrator.events import Event
from orchestrator.jobs import Jobs
from orchestrator.names import FLEET, JobKeys
from orchestrator.progress import Progress
from orchestrator.spec import parse_spec
from orchestrator.stream import read

LEASE_S = 2.0
PATIENCE_S = 60.0
"""How long a test waits for what must come; nothing that is measured depends on it."""


class RedisServer:
    """A Redis on TCP that keeps its data in an append-only file, as a fleet's does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start it, with whatever its file holds."""
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._child = Child([find_redis(), *options], self._folder / "redis.log")
        wait_for_redis(self.url, self._child)
        with connect(self.url) as client:
            self._pid = int(client.info("server")["process_id"])

    def kill(self) -> None:
        """Kill it with -9."""
        os.kill(self._pid, signal.SIGKILL)
        self._child.end()

    def freeze(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def fill(self) -> None:
        """Leave it no memory: it refuses every command that could need more."""
        with connect(self.url) as client:
            client.config_set("maxmemory", 1)

    def relieve(self) -> None:
        """Give it memory again."""
        with connect(self.url) as client:
            client.config_set("maxmemory", 0)

    def end(self) -> None:
        self._child.end()


class Network:
    """A TCP proxy before Redis. `cut` breaks connections and refuses new ones, `blackhole` swallows what is sent."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._passing, self._refusing = threading.Event(), False
        self._passing.set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection, accept no more."""
        self._refusing = True
        self._break()

    def blackhole(self) -> None:
        """Keep connections, and let nothing through."""
        self._passing.clear()

    def heal(self) -> None:
        """Let everything through again."""
        self._refusing = False
        self._passing.set()

    def close(self) -> None:
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._passing.set()
        for thread in self._threads:
            thread.join(5)

    def _break(self) -> None:
        with self._lock:
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            theirs = None if self._refusing else self._onward()
            if theirs is None:
                ours.close()
                continue
            with self._lock:
                self._sockets |= {ours, theirs}
            thread = threading.Thread(target=self._connect, args=(ours, theirs), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _onward(self) -> socket.socket | None:
        try:
            onward = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            return None
        onward.settimeout(None)
        return onward

    def _connect(self, ours: socket.socket, theirs: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(theirs, ours), daemon=True)
        back.start()
        self._pump(ours, theirs)
        back.join()
        with self._lock:
            self._sockets -= {ours, theirs}
        ours.close()
        theirs.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._passing.wait()
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Worker:
    """`orch worker` in a process group of its own: a supervisor, and under it Celery."""

    def __init__(self, fleet: Fleet, url: str, concurrency: int, env: Mapping[str, str]) -> None:
        self._fleet = fleet
        self.log = fleet.folder / f"worker-{next(fleet.numbers)}.log"
        with self.log.open("wb") as output:
            self.supervisor = subprocess.Popen(
                [str(Path(sys.executable).parent / "orch"), "worker", "--concurrency", str(concurrency)],
                env={**fleet.env, "ORCH_REDIS_URL": url, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def celery(self) -> psutil.Process | None:
        """Its Celery process as of now."""
        with suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.supervisor.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    command = one.cmdline()
                    if "celery" in command and not any("lifeline" in part for part in command):
                        return one
        return None

    @property
    def name(self) -> str | None:
        """What its events call it."""
        celery = self.celery()
        return f"{socket.gethostname()}:{celery.pid}" if celery else None

    def ready(self) -> bool:
        """Whether the fleet knows it."""
        name = self.name
        return name is not None and bool(self._fleet.client.hexists(FLEET["WORKERS"], name))

    def until_ready(self) -> Worker:
        self._fleet.until(self.ready, f"a worker is ready:\n{self.log}")
        return self

    def kill(self) -> None:
        """Kill the Celery process with -9, as the OOM killer does."""
        celery = self.celery()
        assert celery, "its Celery process is not there"
        celery.kill()

    def kill_group(self) -> None:
        """Kill all of it with -9."""
        os.killpg(self.supervisor.pid, signal.SIGKILL)
        self.supervisor.wait(10)

    def stop(self) -> None:
        """Stop the whole group, as a machine that sleeps does."""
        os.killpg(self.supervisor.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.supervisor.pid, signal.SIGCONT)

    def ask(self) -> None:
        """Ask it to end."""
        self.supervisor.terminate()


class Watched:
    """A submitted job and the events of it that were seen."""

    def __init__(self, fleet: Fleet, job_id: str) -> None:
        self._fleet = fleet
        self.id = job_id
        self.events: list[Event] = []

    def look(self) -> list[Event]:
        """Every event until now."""
        while batch := read(self._fleet.client, self.id, self.events[-1].id if self.events else "0"):
            self.events += batch
        return self.events

    def until(self, kind: str, step: str | None = None, after: Event | None = None, **data: Any) -> Event:
        """The first such event after another."""
        found: list[Event] = []

        def there() -> bool:
            found[:] = [
                event
                for event in self.look()
                if event.type == kind
                and step in (None, event.step)
                and (after is None or event.order > after.order)
                and all(event.get(name) == value for name, value in data.items())
            ]
            return bool(found)

        self._fleet.until(there, lambda: f"{kind} {step or ''} {data or ''} of {self.id}:\n{self.told()}")
        return found[0]

    def ended(self) -> Progress:
        """The job when it has ended."""
        self._fleet.until(
            lambda: Progress.of(self.id, self.look()).over, lambda: f"the end of {self.id}:\n{self.told()}"
        )
        return Progress.of(self.id, self.events)

    def told(self) -> str:
        """Its events, to read."""
        return "\n".join(
            f"{one.ts} {one.type} {one.step or ''} {one.data or ''}"[:200] for one in self.events
        )

    def count(self, kind: str, step: str | None = None) -> int:
        return sum(event.type == kind and step in (None, event.step) for event in self.events)


class Fleet:
    """One Redis, its workers, and the jobs of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = RedisServer(folder)
        self.client = connect(self.server.url, patient=True)
        self.jobs = Jobs(self.client, make_app(self.server.url), 1000)
        self.numbers = count()
        ours = ("ORCH_", "PROVIDER", "OPENAI_", "ANTHROPIC_", "OLLAMA_", "CONCURRENCY")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env |= {"ORCH_RUNS_DIR": str(folder / "runs"), "ORCH_LEASE_S": f"{LEASE_S:g}"}
        self.workers: list[Worker] = []
        self._networks: list[Network] = []

    def worker(self, url: str | None = None, concurrency: int = 4, **env: str) -> Worker:
        """Start a worker, do not wait for it."""
        self.workers.append(Worker(self, url or self.server.url, concurrency, env))
        return self.workers[-1]

    def network(self) -> Network:
        """A way to Redis that can be cut."""
        self._networks.append(Network(self.server.port))
        return self._networks[-1]

    def submit(self, spec: Mapping[str, Any]) -> Watched:
        """Submit a job."""
        loaded = parse_spec(
            json.dumps({"project": "p", "task_description": "try", "concurrency": 4} | spec), "x"
        )
        return Watched(self, self.jobs.submit(loaded, loaded.spec))

    def worker_of(self, event: Event) -> Worker:
        """The worker that a step.started names."""
        return next(one for one in self.workers if one.name == event.get("worker"))

    def now_ms(self) -> int:
        """Redis's clock."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def until(self, true: Callable[[], bool], what: str | Callable[[], str]) -> None:
        """Wait for something."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                logs = "\n".join(one.log.read_text()[-3000:] for one in self.workers)
                message = what if isinstance(what, str) else what()
                raise AssertionError(f"waited {PATIENCE_S:g} s for {message}\nworkers:\n{logs}")
            time.sleep(0.05)

    def check(self, *jobs: Watched) -> None:
        """Each job succeeded, each of its steps once, with all that it made; nothing is left held."""
        for job in jobs:
            progress = job.ended()
            assert progress.status == "succeeded", job.told()
            check_history(job.events)
            assert not progress.pending(), job.told()
            self._check_contents(job)
            left = {b":leases", b":active", b":queued", b":parked", b":ready", b":open"}
            keys = {key.removeprefix(JobKeys(job.id).job.encode()) for key in self._keys(job.id)}
            assert not keys & left, (keys & left, job.told())
        assert self.client.smembers(FLEET["ALIVE"]) == set()
        assert self.client.hgetall(FLEET["HELD"]) == {}

    def _keys(self, job_id: str) -> Sequence[bytes]:
        return list(self.client.scan_iter(f"orch:{{{job_id}}}*", count=10_000))

    def _check_contents(self, job: Watched) -> None:
        """Every content that an event names is there and is what its name says; the last file of a path counts."""
        files: dict[str, str] = {}
        for event in job.events:
            if event.type == "file.written":
                files[event.get("path")] = event.get("sha256")
            named = [event.get("sha256")] if event.type == "file.written" else []
            named += [one["sha256"] for one in event.get("artifacts", ())]
            for sha256 in named:
                blob = self.jobs.state.blob(job.id, sha256)
                assert blob is not None, (event, "its content is gone")
                assert hashlib.sha256(blob).hexdigest() == sha256
        table: Any = self.client.hgetall(f"{JobKeys(job.id).job}:files")
        assert {path.decode(): json.loads(raw)["sha256"] for path, raw in table.items()} == files

    def end(self) -> None:
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.supervisor.pid, signal.SIGKILL)
            worker.supervisor.wait(10)
        for network in self._networks:
            network.close()
        self.client.close()
        self.jobs.app.close()
        self.server.end()


def check_history(events: Sequence[Event]) -> None:
    """Ids rise; a step starts after its needs, and succeeds once, and only while the claim that started it holds."""
    orders = [event.order for event in events]
    assert orders == sorted(set(orders)), "event ids are not unique and ordered"
    told = [event for event in events if event.type in ("job.submitted", "plan.expanded")]
    needs = {step["id"]: set(step["needs"]) for event in told for step in event.get("steps")}
    running: set[str] = set()
    done: Counter[str] = Counter()
    for event in events:
        match event.type, event.step:
            case "step.started", str(step):
                assert needs[step] <= set(done), f"{step} started before its needs were done"
                assert step not in running, f"{step} started while another claim held it"
                running.add(step)
            case (("step.lost" | "step.retrying" | "step.failed"), str(step)):
                running.discard(step)
            case "step.succeeded", str(step):
                assert step in running, f"{step} was committed by a claim that was no longer its own"
                running.discard(step)
                done[step] += 1
    assert done == Counter(dict.fromkeys(needs, 1)), "a step was not committed exactly once"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A fleet of no workers yet."""
    folder = Path(tempfile.mkdtemp(prefix="orch-chaos-", dir="/tmp"))
    fleet = Fleet(folder)
    yield fleet
    fleet.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def lease_s() -> float:
    """The lease of the fleet's workers, in seconds."""
    return LEASE_S


_SEEDS = count(1)


@pytest.fixture
def chain() -> Callable[..., dict[str, Any]]:
    """A spec of three steps one after the other, each with an answer of its own that is in no cache."""

    def spec(latency_s: float = 1.0) -> dict[str, Any]:
        names = ("a", "b", "c")
        listed = [
            {"id": one, "prompt": f"write {one}", "needs": list(names[:i][-1:]), "output": f"{one}.txt"}
            for i, one in enumerate(names)
        ]
        return {
            "provider": "simulated",
            "options": {"latency_s": latency_s, "seed": next(_SEEDS)},
            "steps": listed,
        }

    return spec


@pytest.fixture
def pipeline() -> Callable[..., dict[str, Any]]:
    """A spec of the default pipeline."""

    def spec(latency_s: float = 0.5) -> dict[str, Any]:
        return {"provider": "simulated", "options": {"latency_s": latency_s, "seed": next(_SEEDS)}}

    return spec
