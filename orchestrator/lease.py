"""The heartbeat: one thread a process that prolongs the leases of its steps, and stops those that shall end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import redis

from orchestrator.state import State

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often the heartbeat looks whether a job has ended: a running call is stopped within that time."""

Reason = Literal["lost", "timeout", "shutdown"]


@dataclass
class Hold:
    """A step that this process runs. `stopped` is set when it shall end, `reason` says why."""

    job_id: str
    step: str
    token: str
    stopped: threading.Event = field(default_factory=threading.Event)
    reason: Reason | None = None
    limit_s: float | None = None
    deadline: float = float("inf")  # by time.monotonic()
    renewed: bool = False

    def stop(self, reason: Reason) -> None:
        """Ask the step to end; the first reason counts."""
        self.reason = self.reason or reason
        self.stopped.set()

    def limit(self, seconds: float | None) -> None:
        """End the step when it has run for so long from now."""
        if seconds is not None:
            self.limit_s, self.deadline = seconds, time.monotonic() + seconds


class Heartbeat:
    """Keeps leases alive, and tells steps when to end. Shared by the threads of a worker."""

    def __init__(self, state: State, lease_s: float) -> None:
        self._state = state
        self._lease_s = lease_s
        self._held: dict[str, Hold] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, job_id: str, step: str, token: str) -> Iterator[Hold]:
        """Prolong this lease until the block ends."""
        hold = Hold(job_id, step, token)
        with self._lock:
            self._held[token] = hold
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                self._thread.start()
        try:
            yield hold
        finally:
            with self._lock:
                del self._held[token]

    def held(self) -> list[Hold]:
        """What this process runs now."""
        with self._lock:
            return list(self._held.values())

    def _beat(self) -> None:
        pause, renewed, stops = threading.Event(), time.monotonic(), b""
        while not pause.wait(LOOK_S):
            held, now = self.held(), time.monotonic()
            for hold in held:
                if now > hold.deadline:
                    hold.stop("timeout")
            try:
                latest = self._state.stops() if held else stops
                if held and (latest != stops or now - renewed >= self._lease_s / 3):
                    self._renew(held)
                    renewed, stops = now, latest
                elif new := [hold for hold in held if not hold.renewed]:
                    self._renew(new)  # its job may have ended before we knew of it
            except Exception as error:
                known = isinstance(error, redis.RedisError | OSError)
                log.log(
                    logging.WARNING if known else logging.ERROR, "no heartbeat: %s", error, exc_info=not known
                )

    def _renew(self, held: list[Hold]) -> None:
        renewed = self._state.renew(((one.job_id, one.step, one.token) for one in held), self._lease_s)
        for hold, ours in zip(held, renewed, strict=True):
            hold.renewed = True
            if not ours:
                hold.stop("lost")
