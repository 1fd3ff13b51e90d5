"""Recovery: what every worker does beside running steps, so that no accepted job is lost or stuck.

Each worker tells the fleet twice a second that it lives. One of them leads, and has the script `recover.lua` look after
every job that has not ended; what the script says is to be sent is sent. The same steps may be sent twice: a message
with an old ticket is void.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import redis

from orchestrator.state import Dispatch, State

log = logging.getLogger(__name__)

TICK_S = 0.5
WORKER_TTL_S = 2.5
MESSAGE_GRACE_S = 2.0
"""How long a message may be out of the queue and not claimed."""

Send = Callable[[str, list[Dispatch]], None]


class Recovery:
    """One worker's part in it."""

    def __init__(
        self,
        state: State,
        send: Send,
        worker: str,
        slots: int,
        lease_s: float,
        serves: Mapping[str, Any] | None = None,
    ) -> None:
        self._state = state
        self._send = send
        self._worker = worker
        self._slots = slots
        self._serves = serves
        self._settling_s = lease_s / 3 + 2 * TICK_S
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def leave(self) -> None:
        """Tell the fleet that this worker takes no more steps, and stop."""
        self._leaving.set()
        self._thread.join(4 * TICK_S)

    def tick(self) -> None:
        """Tell that we live and, if we lead, look after every job once."""
        lead = self._state.lead(self._worker, self._slots, WORKER_TTL_S, self._settling_s, self._serves)
        if lead is None:
            return
        for job_id in lead.jobs:
            try:
                sent = self._state.recover(job_id, calm=lead.calm, grace_s=MESSAGE_GRACE_S)
            except redis.ResponseError:
                log.exception("%s cannot be looked after", job_id)
                continue
            if sent:
                log.warning("%s: dispatched %s again", job_id, ", ".join(one.step for one in sent))
                self._send(job_id, sent)

    def _run(self) -> None:
        while True:
            try:
                self.tick()
            except Exception as error:
                known = isinstance(error, redis.RedisError | OSError)
                log.log(
                    logging.WARNING if known else logging.ERROR, "recovery: %s", error, exc_info=not known
                )
            if self._leaving.wait(TICK_S):
                break
        try:
            self._state.lead(self._worker, 0, WORKER_TTL_S, self._settling_s)
        except redis.RedisError as error:
            log.warning("recovery: could not say goodbye: %s", error)
