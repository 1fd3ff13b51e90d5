"""The heartbeat: one thread a process that prolongs the leases of all steps this process runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from orchestrator.state import State

log = logging.getLogger(__name__)

NOTICE_S = 1.0
"""A step learns within this time that its job was cancelled."""


class Heartbeat:
    """Keeps leases alive, and tells a step when its lease has gone to somebody else."""

    def __init__(self, state: State, lease_s: float) -> None:
        self._state = state
        self._lease_s = lease_s
        self._held: dict[tuple[str, str, str], threading.Event] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, job_id: str, step: str, token: str) -> Iterator[threading.Event]:
        """Prolong this lease until the block ends. Yields an event that is set when the lease was lost."""
        lost = threading.Event()
        with self._lock:
            self._held[job_id, step, token] = lost
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                self._thread.start()
        try:
            yield lost
        finally:
            with self._lock:
                del self._held[job_id, step, token]

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(min(self._lease_s / 3, NOTICE_S)):
            with self._lock:
                held = list(self._held.items())
            for (job_id, step, token), lost in held:
                try:
                    if not self._state.renew(job_id, step, token, self._lease_s):
                        lost.set()
                except redis.RedisError as error:
                    log.warning("no heartbeat for %s/%s: %s", job_id, step, error)
