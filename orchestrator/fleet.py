"""What the fleet looks like now: workers, circuits, limits. It is read from Redis; nothing here changes anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import redis

from orchestrator.events import iso
from orchestrator.names import FLEET
from orchestrator.settings import Settings
from orchestrator.workers import Serves, has_mlx
from providers.registry import available


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that has said lately that it lives. `providers` are those it has what they need for."""

    name: str
    slots: int
    serves: Serves
    queues: tuple[str, ...]
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Circuit:
    """A provider's circuit. `until` is when it will be probed, where it is open (ISO 8601)."""

    name: str
    state: str
    failures: int
    until: str | None


def describe(serves: Serves, settings: Settings) -> dict[str, Any]:
    """What a worker tells of itself: the queues it takes from, and the providers that miss nothing here."""
    return {
        "provider": serves.provider,
        "model": serves.model,
        "queues": list(serves.queues),
        "providers": [serves.provider] if serves.provider else _equipped(settings),
    }


def workers(client: redis.Redis) -> list[Worker]:
    """The workers that live."""
    now_ms, found = redis_ms(client), []
    raw: Any = client.hgetall(FLEET["WORKERS"])
    for name, value in sorted(raw.items()):
        about = json.loads(value)
        if about["until_ms"] >= now_ms and about["slots"]:
            told = json.loads(about.get("serves") or "{}")
            serves = Serves(told.get("provider"), told.get("model"))
            named = tuple(told.get("queues", ())), tuple(told.get("providers", ()))
            found.append(Worker(name.decode(), about["slots"], serves, *named))
    return found


def circuits(client: redis.Redis) -> list[Circuit]:
    """The circuits of all providers that were asked since Redis was empty."""
    names: Any = client.smembers(FLEET["CIRCUITS"])
    return [circuit(client, name.decode()) for name in sorted(names)]


def circuit(client: redis.Redis, name: str) -> Circuit:
    """A provider's circuit; one that nobody has seen is closed."""
    raw: Any = client.hgetall(f"{FLEET['CIRCUIT']}{name}")
    fields = {key.decode(): value.decode() for key, value in raw.items()}
    state = fields.get("state", "closed")
    until = iso(int(fields["until_ms"])) if state == "open" and "until_ms" in fields else None
    return Circuit(name, state, int(fields.get("failures", 0)), until)


def running(client: redis.Redis, limit: str) -> int:
    """How many calls that are counted by a limit run now."""
    count: Any = client.zcard(f"{FLEET['LIMIT']}{limit}:running")
    return int(count)


def limited_until(client: redis.Redis, limit: str) -> str | None:
    """Until when a vendor has asked the fleet to leave a model alone (ISO 8601); None when it may be asked."""
    until: Any = client.hget(f"{FLEET['LIMIT']}{limit}", "until_ms")
    return iso(int(until)) if until and int(until) > redis_ms(client) else None


def redis_ms(client: redis.Redis) -> int:
    """Redis's clock, in ms since the epoch."""
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _equipped(settings: Settings) -> list[str]:
    """The providers that have their key and their packages here; told without loading any of them."""
    has = {
        "mlx": has_mlx(),
        "anthropic": bool(settings.anthropic_api_key),
        "openai": bool(settings.openai_api_key or settings.openai_base_url),
    }
    return [name for name in available() if has.get(name, True)]
