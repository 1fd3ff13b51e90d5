"""Events: every act of a job as one typed record.

An event's id is its stream id and its time is the time in that id: Redis's clock, one for the whole fleet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Level = Literal["INFO", "WARN", "ERROR"]
EventType = Literal[
    "job.submitted",
    "job.started",
    "job.resumed",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "step.queued",
    "step.started",
    "step.succeeded",
    "step.failed",
    "step.skipped",
    "step.retrying",
    "step.lost",
    "llm.request",
    "llm.response",
    "cache.hit",
    "cache.miss",
    "plan.expanded",
    "file.written",
    "breaker.opened",
    "breaker.half_open",
    "breaker.closed",
    "provider.fallback",
    "budget.exceeded",
    "qa.check",
    "qa.repair",
]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
FINAL: frozenset[str] = frozenset({"job.succeeded", "job.failed", "job.cancelled"})
"""After one of these the job does nothing more, unless it is resumed."""


class Event(BaseModel):
    """One act. `data` depends on the type; docs/EVENTS.md lists its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^\d+-\d+$", description="Redis stream id: orders a job's events")
    ts: str = Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", description="UTC, from the clock of Redis"
    )
    level: Level
    job_id: str = Field(pattern=r"^job_[0-9a-f]{12}$")
    type: EventType
    step: str | None = None
    data: dict[str, JsonValue] | None = None

    @property
    def order(self) -> tuple[int, int]:
        """What to sort by: stream ids are numbers, not text."""
        return id_order(self.id)

    @property
    def at_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.order[0]

    def get(self, key: str, default: Any = None) -> Any:
        """One value of `data`."""
        return (self.data or {}).get(key, default)

    def to_json(self) -> dict[str, Any]:
        """The event as it stands in `events.jsonl`: absent fields are left out."""
        return self.model_dump(exclude_none=True)

    def to_line(self) -> str:
        """One line of `events.jsonl`."""
        return (
            json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"))
            .encode(errors="replace")
            .decode()
            + "\n"
        )


@dataclass(frozen=True, slots=True)
class Act:
    """An event that is about to happen: what its author knows of it."""

    type: EventType
    data: Mapping[str, Any] | None = None
    level: Level = "INFO"


def id_order(stream_id: str) -> tuple[int, int]:
    """Turn "1700000000000-3" into (1700000000000, 3)."""
    ms, _, seq = stream_id.partition("-")
    return int(ms), int(seq or 0)


def iso(ms: float) -> str:
    """Format milliseconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_stream(job_id: str, stream_id: str, fields: Mapping[bytes, bytes]) -> Event:
    """Rebuild an event from its stream entry."""
    step, data = fields.get(b"step"), fields.get(b"data")
    return Event.model_validate(
        {
            "id": stream_id,
            "ts": iso(id_order(stream_id)[0]),
            "level": fields[b"level"].decode(),
            "job_id": job_id,
            "type": fields[b"type"].decode(),
            "step": step.decode() if step else None,
            "data": json.loads(data) if data else None,
        }
    )


def to_fields(event: Event) -> dict[str, str]:
    """The stream entry of an event, the inverse of `from_stream`."""
    fields = {
        "type": event.type,
        "level": event.level,
        "step": event.step,
        "data": event.data and json.dumps(event.data),
    }
    return {name: value for name, value in fields.items() if value}
