"""The mirror service: keeps the run folders of all jobs of a Redis up to date on this machine.

One XREAD waits for events of every job that may still have some. A job's folder is opened when it is behind its
stream and closed when the job has ended, or when too many others are open. Nothing is remembered between two runs of
the service but the folders themselves, so it may be killed anywhere.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from orchestrator.atomic import locked
from orchestrator.errors import OrchError
from orchestrator.events import from_stream, id_order
from orchestrator.mirror import Mirror
from orchestrator.names import FLEET, JobKeys
from orchestrator.progress import Progress
from orchestrator.runfolder import RunFolder
from orchestrator.state import State
from orchestrator.stream import read

log = logging.getLogger(__name__)

WAIT_MS = 300
LOOK_S = 0.5
"""How often to look for jobs that are new or were resumed."""
SWEEP_S = 15.0
"""How often to compare every job with its folder: for those that came and went between two looks."""
AFTERGLOW_S = 10.0
"""How long a job that has ended is still watched: a call that was cut short reports late."""
AGAIN_S = 30.0
"""How long to leave a job alone that could not be mirrored."""
MOST_OPEN = 64
LAST_S = 3.0
"""How long to go on writing after being told to stop."""
LOCK_WAIT_S = 30.0

_OUTAGES = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ReadOnlyError)
_TAIL_BYTES = 1 << 16

Told = Callable[[RunFolder, Progress], None]


class Mirroring:
    """Mirrors every job of a Redis below `runs_dir`; `told` hears of each job whose end has reached its folder."""

    def __init__(
        self, client: redis.Redis, runs_dir: Path, told: Told = lambda _folder, _progress: None
    ) -> None:
        self._client = client
        self._state = State(client)
        self._runs_dir = runs_dir
        self._told = told
        self._open: OrderedDict[str, Mirror] = OrderedDict()  # the one used longest ago first
        self._watched: dict[str, str] = {}  # job → last event in its folder
        self._over: dict[str, float] = {}  # watched job that has ended → when to stop watching it
        self._seen: set[str] = set()
        self._put_off: dict[str, float] = {}  # job that could not be mirrored → when to try again
        self._looked = self._swept = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Mirror until told to stop; then write what Redis has until now, and return. An outage is waited out."""
        down = False
        while not stop.is_set():
            try:
                self.turn(WAIT_MS)
            except _OUTAGES as error:
                if not down:
                    log.warning("Redis does not answer (%s): trying until it does", error)
                down = True
                stop.wait(LOOK_S)
            else:
                if down:
                    log.warning("Redis answers again")
                down = False
        with suppress(redis.RedisError):
            self.catch_up(LAST_S)
        self.close()

    def catch_up(self, within_s: float = float("inf")) -> list[str]:
        """Write what Redis has until now; returns the jobs that could not be mirrored."""
        deadline = time.monotonic() + within_s
        self._looked = self._swept = float("-inf")
        while self.turn(None) and time.monotonic() < deadline:
            pass
        return sorted(self._put_off)

    def turn(self, wait_ms: int | None) -> bool:
        """Look for jobs when it is time to, and write what is there or comes soon. True if there was anything."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._look(now)
        if not self._watched:
            time.sleep((wait_ms or 0) / 1000)
            return False
        after: Any = {JobKeys(job_id).events: last for job_id, last in self._watched.items()}
        replies: Any = self._client.xread(after, count=1000, block=wait_ms)
        for name, entries in replies or ():
            job_id = _job_of(name)
            with self._by_itself(job_id):
                self._write(job_id, entries)
        return bool(replies)

    def close(self) -> None:
        """Close every folder."""
        for job_id in list(self._open):
            self._close(job_id)

    def _look(self, now: float) -> None:
        """Find the jobs that are to be watched, and those that need not be any more."""
        known: set[str] = set(self._state.jobs())
        alive: Any = self._client.smembers(FLEET["ALIVE"])
        self._forget(
            {job_id for job_id, until in self._over.items() if until < now} | self._watched.keys() - known
        )
        self._put_off = {job_id: until for job_id, until in self._put_off.items() if until > now}
        asked = (
            known
            if now - self._swept >= SWEEP_S
            else {one.decode() for one in alive} & known | known - self._seen
        )
        newest = newest_ids(self._client, asked - self._watched.keys() - self._put_off.keys())
        for job_id, last in newest.items():
            with self._by_itself(job_id):
                folder = RunFolder(self._runs_dir / job_id)
                if job_id.encode() in alive or behind(folder, last):
                    self._watched[job_id] = last_id(folder)
                if _unsummed(folder):
                    self._mirror(job_id)
        self._swept = now if asked is known else self._swept
        self._seen, self._looked = known - self._put_off.keys(), now

    def _write(self, job_id: str, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        mirror = self._mirror(job_id)
        fresh = mirror.write([from_stream(job_id, id_.decode(), fields) for id_, fields in entries])
        self._watched[job_id] = mirror.progress.last_id
        if not mirror.progress.over:
            self._over.pop(job_id, None)
            return
        self._over[job_id] = time.monotonic() + AFTERGLOW_S
        self._close(job_id)
        if fresh:
            self._told(RunFolder(self._runs_dir / job_id), mirror.progress)

    @contextmanager
    def _by_itself(self, job_id: str) -> Iterator[None]:
        """What stands in the way of this job does not stop the others; it is tried again later."""
        try:
            yield
        except _OUTAGES:
            self._close(job_id)
            raise
        except Exception as error:  # noqa: BLE001 - a full disk, a refused path, an event of a later version
            log.error("%s is not mirrored: %s: %s", job_id, type(error).__name__, error)  # noqa: TRY400
            self._forget({job_id})
            self._put_off[job_id] = time.monotonic() + AGAIN_S

    def _mirror(self, job_id: str) -> Mirror:
        if job_id not in self._open:
            while len(self._open) >= MOST_OPEN:
                self._close(next(iter(self._open)))
            self._open[job_id] = Mirror(self._client, RunFolder(self._runs_dir / job_id))
        self._open.move_to_end(job_id)
        return self._open[job_id]

    def _forget(self, job_ids: Iterable[str]) -> None:
        for job_id in set(job_ids):
            self._close(job_id)
            self._watched.pop(job_id, None)
            self._over.pop(job_id, None)

    def _close(self, job_id: str) -> None:
        if mirror := self._open.pop(job_id, None):
            with suppress(OSError):  # what could not be written is still in Redis
                mirror.__exit__(None, None, None)


def bring_up_to_date(client: redis.Redis, folder: RunFolder) -> None:
    """Write a job's folder up to the newest event there is now; where another mirror is at it, wait for that one."""
    newest = newest_ids(client, [folder.job_id]).get(folder.job_id)
    deadline = time.monotonic() + LOCK_WAIT_S
    while newest and (behind(folder, newest) or _unsummed(folder)):
        if not folder.path.exists() or not locked(folder.path):
            with Mirror(client, folder) as mirror:
                while batch := read(client, folder.job_id, mirror.progress.last_id):
                    mirror.write(batch)
            return
        if time.monotonic() > deadline:
            raise OrchError(f"another mirror holds {folder.path} and does not get on")
        time.sleep(LOOK_S / 10)


def newest_ids(client: redis.Redis, job_ids: Iterable[str]) -> dict[str, str]:
    """The id of the newest event of each job that has any."""
    pipe, asked = client.pipeline(transaction=False), list(job_ids)
    for job_id in asked:
        pipe.xrevrange(JobKeys(job_id).events, count=1)
    return {
        job_id: entries[0][0].decode()
        for job_id, entries in zip(asked, pipe.execute(), strict=True)
        if entries
    }


def behind(folder: RunFolder, newest: str) -> bool:
    """Whether the folder lacks events up to this id."""
    return id_order(last_id(folder)) < id_order(newest)


def last_id(folder: RunFolder) -> str:
    """The id of the last event of a folder, "0" for none, from the end of the file alone where that will do."""
    with suppress(OSError), folder.events.open("rb") as lines:
        size = lines.seek(0, 2)
        lines.seek(max(0, size - _TAIL_BYTES))
        whole = lines.read().rpartition(b"\n")[0]
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(whole.rpartition(b"\n")[2])["id"])
    return folder.progress().last_id


def _unsummed(folder: RunFolder) -> bool:
    """Whether a mirror was killed after it wrote events and before it wrote the manifest."""
    with suppress(OSError):
        events_ns = folder.events.stat().st_mtime_ns
        return not folder.manifest.exists() or folder.manifest.stat().st_mtime_ns < events_ns
    return False


def _job_of(name: bytes) -> str:
    """The job of a stream's key."""
    return name.decode().partition("{")[2].partition("}")[0]
