"""The cache of completions: the fleet's layer in Redis, and under it this machine's on disk.

A second run of an unchanged spec calls no provider, even when its Redis is a new one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis

from orchestrator.completions import Entry, parse_entry
from orchestrator.diskcache import DiskCache
from orchestrator.names import FLEET, RUNS_CACHE_DIR, JobKeys, cache_key
from orchestrator.records import CacheUse
from orchestrator.scripts import Scripts
from orchestrator.settings import Settings
from providers import Completion

NEVER_EXPIRES = -1
"""What Redis says of the time to live of such a key; of one that does not exist it says -2."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A found entry and the layer it came from: the fleet's, this machine's, or what the step itself has paid for."""

    entry: Entry
    layer: Literal["redis", "disk", "step"]


@dataclass(frozen=True, slots=True)
class Layer:
    """How full a layer of the cache is."""

    entries: int
    bytes: int


class Cache:
    """Two layers, read in turn and written together. Safe to share between threads.

    Args:
        client: The fleet's Redis.
        runs_dir: Where this machine's layer is.
        ttl_s: Seconds that an entry lives, in either layer.
        most_bytes: Of each layer; the oldest entries make room for new ones.
    """

    def __init__(self, client: redis.Redis, runs_dir: Path, ttl_s: int, most_bytes: int = 512 << 20) -> None:
        self.client = client
        self.disk = DiskCache(runs_dir / RUNS_CACHE_DIR, ttl_s, most_bytes)
        self._keep = Scripts(client).script("keep")
        self._ttl_s = ttl_s
        self._most_bytes = most_bytes

    def get(self, key: str) -> Hit | None:
        """Return the entry, None when there is none or it is damaged."""
        raw: Any = self.client.get(cache_key(key))
        if raw and (entry := parse_entry(raw, key)):
            return Hit(entry, "redis")
        if found := self.disk.get(key):
            entry, age_s = found
            self._put(entry, self._ttl_s - age_s)
            return Hit(entry, "disk")
        return None

    def put(self, entry: Entry) -> None:
        """Store an entry in both layers. A full or read-only disk costs only the disk's layer."""
        self._put(entry, self._ttl_s)
        self.disk.put(entry)

    def written_ms(self, key: str) -> float | None:
        """When the fleet's entry was first stored, by the clock of Redis; None when there is none."""
        expires_ms: Any = self.client.zscore(FLEET["CACHED"], key)
        return None if expires_ms is None else expires_ms - self._ttl_s * 1000

    def stats(self) -> Layer:
        """How full the fleet's layer is."""
        entries: Any = self.client.zcount(FLEET["CACHED"], time.time() * 1000, "+inf")
        used: Any = self.client.get(FLEET["CACHED_BYTES"])
        return Layer(entries, int(used or 0))

    def clear(self) -> int:
        """Empty the fleet's layer; returns how many entries it had."""
        keys: Any = self.client.zrange(FLEET["CACHED"], 0, -1)
        names = [cache_key(key.decode()) for key in keys]
        self.client.delete(*names, FLEET["CACHED"], FLEET["CACHED_SIZES"], FLEET["CACHED_BYTES"])
        return len(names)

    def _put(self, entry: Entry, ttl_s: float) -> None:
        self._keep(args=[entry.key, entry.model_dump_json(), max(1, int(ttl_s * 1000)), self._most_bytes])


class StepCache:
    """The cache as one step of a job uses it. What the step has paid for stays with it, whatever the job's use."""

    def __init__(self, cache: Cache, job_id: str, step: str, use: CacheUse) -> None:
        self._cache = cache
        self._job = JobKeys(job_id).job
        self._answers = JobKeys(job_id).answers
        self._paid = JobKeys(job_id).paid
        self._step = step
        self._use = use

    @property
    def shares(self) -> bool:
        """Whether answers are shared with other steps."""
        return self._use != "off"

    def get(self, key: str) -> Hit | None:
        """Return the entry, None when there is none; for a job that refreshes the cache, none from before the job."""
        if self._use != "use":
            raw: Any = self._cache.client.hget(self._answers, answer_field(self._step, key))
            if raw and (entry := parse_entry(raw, key)):
                return Hit(entry, "step")
        wanted = self._use == "use" or (self._use == "refresh" and self._is_new(key))
        return self._cache.get(key) if wanted else None

    def put(self, entry: Entry) -> None:
        """Store an entry where this step, and others if they may, will find it."""
        if self._use != "use":
            client, field = self._cache.client, answer_field(self._step, entry.key)
            pipe = client.pipeline(transaction=False)
            pipe.hset(self._answers, field, entry.model_dump_json())
            pipe.ttl(self._job)
            left_s = pipe.execute()[1]
            if left_s != NEVER_EXPIRES:  # the job is over, or gone
                client.expire(self._answers, max(left_s, 1))
        if self.shares:
            self._cache.put(entry)

    def paid(self, key: str) -> Completion | None:
        """The answer to a single call that an earlier run of the step has paid for, whatever it was worth."""
        raw: Any = self._cache.client.hget(self._paid, answer_field(self._step, key))
        entry = parse_entry(raw, key) if raw else None
        return entry.completion() if entry else None

    def _is_new(self, key: str) -> bool:
        written_ms, created_ms = self._cache.written_ms(key), self._cache.client.hget(self._job, "created_ms")
        return written_ms is not None and written_ms > int(created_ms or 0)


def answer_field(step: str, key: str) -> str:
    """Where a job keeps an answer for one step alone."""
    return f"{step}:{key}"


def make_cache(client: redis.Redis, settings: Settings) -> Cache:
    """The cache on that Redis and this machine, as the settings have it."""
    return Cache(client, settings.orch_runs_dir, settings.orch_cache_ttl_s, settings.orch_cache_max_mb << 20)
