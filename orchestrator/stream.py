"""A job's events where they are while Redis lives: in one stream a job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from orchestrator.events import Event, from_stream
from orchestrator.names import JobKeys


def read(client: redis.Redis, job_id: str, after: str = "0", block_ms: int | None = None) -> list[Event]:
    """Return up to 1,000 events after an id, oldest first; with `block_ms`, wait that long for the first.

    Args:
        client: A client that returns bytes.
        job_id: Whose events.
        after: Stream id of the last event that the caller has; "0" for none.
        block_ms: How long to wait when there is none; None returns at once.
    """
    replies: Any = client.xread({JobKeys(job_id).events: after}, count=1000, block=block_ms)
    return [
        from_stream(job_id, entry_id.decode(), fields)
        for _, entries in replies or ()
        for entry_id, fields in entries
    ]


def read_all(client: redis.Redis, job_id: str) -> Iterator[Event]:
    """Every event until now, oldest first."""
    after = "0"
    while batch := read(client, job_id, after):
        yield from batch
        after = batch[-1].id


def follow(client: redis.Redis, job_id: str, after: str = "0", wait_ms: int = 500) -> Iterator[list[Event]]:
    """Batches of events as they come; an empty one when `wait_ms` went by without any. Never ends by itself."""
    while True:
        batch = read(client, job_id, after, wait_ms)
        after = batch[-1].id if batch else after
        yield batch
