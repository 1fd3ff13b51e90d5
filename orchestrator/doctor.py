"""Checks of everything that a job depends on: each says how it stands and, where it does not, what would help."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import redis

from orchestrator.choices import fallbacks, model_of
from orchestrator.connection import HOW_TO_POINT, connect, require
from orchestrator.embedded import find_redis
from orchestrator.errors import EnvironmentNotReady
from orchestrator.fleet import Worker, circuits, redis_ms, workers
from orchestrator.models import JobSpec
from orchestrator.names import FLEET, MLX_QUEUE, QUEUE
from orchestrator.outlook import ProviderView, view_providers
from orchestrator.settings import Settings
from orchestrator.state import State

MOST_SKEW_S = 1.0
LEAST_FREE_BYTES = 1 << 30


Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. A failed one stops jobs, a warning may; `fix` says what to do."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


def examine(settings: Settings, url: str | None) -> Iterator[Check]:
    """Look at this machine, and at the fleet of that Redis."""
    yield _python()
    yield from _disk(settings.orch_runs_dir)
    yield from _providers(view_providers(settings, None))
    client = None
    if url is None:
        yield _no_fleet()
    else:
        client = connect(url, timeout_s=3)
        try:
            require(client)
        except EnvironmentNotReady as error:
            yield Check("redis", "fail", str(error), f"start Redis, or {HOW_TO_POINT}")
        else:
            yield from _fleet(client)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok", f"{version} at {sys.executable}")


def _disk(runs_dir: Path) -> Iterator[Check]:
    there = next(folder for folder in (runs_dir.absolute(), *runs_dir.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield Check("disk", "fail", f"{there} cannot be written", "set ORCH_RUNS_DIR to a folder that can")
        return
    free = shutil.disk_usage(there).free
    enough = free >= LEAST_FREE_BYTES
    fix = None if enough else "make room, or set ORCH_RUNS_DIR to another disk"
    yield Check("disk", "ok" if enough else "warn", f"{free / (1 << 30):.1f} GiB free for {runs_dir}/", fix)


def _providers(views: list[ProviderView]) -> Iterator[Check]:
    """Providers that need a model or a key are optional one by one; without any of them only scaffold builds."""
    ready = [one for one in views if one.ready]
    yield from (Check(f"provider {one.name}", "ok", f"ready: {one.model}") for one in ready)
    for one in views:
        if not one.ready:
            yield Check(f"provider {one.name}", "warn", "not ready", one.reason)


def _no_fleet() -> Check:
    try:
        binary = find_redis()
    except EnvironmentNotReady as error:
        return Check("redis", "fail", "no Redis is named, and none can be started", str(error))
    return Check("redis", "ok", f"none is named; `orch run` and `orch up` start their own: {binary}")


def _fleet(client: redis.Redis) -> Iterator[Check]:
    yield from _redis(client)
    skew = abs(time.time() - redis_ms(client) / 1000)
    fix = (
        None
        if skew <= MOST_SKEW_S
        else "set the clocks by NTP; orch goes by Redis's, event times of yours will look odd"
    )
    yield Check("clock", "ok" if skew <= MOST_SKEW_S else "warn", f"{skew:.2f} s from Redis's", fix)
    living = workers(client)
    waiting = client.scard(FLEET["ALIVE"])
    if living:
        slots = sum(one.slots for one in living)
        yield Check("workers", "ok", f"{len(living)} living, {slots} slots; {waiting} jobs under way")
    else:
        yield Check(
            "workers",
            "fail" if waiting else "warn",
            f"none; {waiting} jobs under way",
            "start one: orch worker",
        )
    yield from _unserved(client, living)
    for one in circuits(client):
        if one.state != "closed":
            detail = f"{one.state} after {one.failures} failures" + (
                f", until {one.until}" if one.until else ""
            )
            yield Check(
                f"circuit {one.name}",
                "warn",
                detail,
                "see whether the provider answers; it is probed by itself",
            )


def _redis(client: redis.Redis) -> Iterator[Check]:
    server, memory, disk = (client.info(part) for part in ("server", "memory", "persistence"))
    policy = memory.get("maxmemory_policy", "noeviction")
    yield Check("redis", "ok", f"version {server['redis_version']}")
    if policy != "noeviction":
        detail = f"evicts keys when it is full ({policy}): jobs could be lost"
        yield Check("redis memory", "fail", detail, "set maxmemory-policy noeviction")
    if not disk.get("aof_enabled"):
        yield Check("redis persistence", "warn", "jobs are lost when it stops", "set appendonly yes")


def _unserved(client: redis.Redis, living: list[Worker]) -> Iterator[Check]:
    """Models that steps of jobs under way wait for, and that no living worker serves."""
    state, seen = State(client), set()
    ids = client.smembers(FLEET["ALIVE"])
    for job_id in sorted(one.decode() for one in ids):  # type: ignore[union-attr]
        if not state.job(job_id):
            continue
        for names, model, step in _wanted(state.spec(job_id)):
            if (names, model) in seen or not living or any(_serves(one, names, model) for one in living):
                continue
            seen.add((names, model))
            wanted = f"{' or '.join(names)}{f' {model}' if model else ''}"
            fix = f"start one that does: orch worker --provider {names[0]}" + (
                f" --model {model}" if model else ""
            )
            yield Check("models", "fail", f"no worker serves {wanted}, which {job_id}/{step} needs", fix)


def _wanted(spec: JobSpec) -> Iterator[tuple[tuple[str, ...], str | None, str]]:
    for step in spec.all_steps():
        yield fallbacks(step.provider or spec.provider), model_of(spec, step), step.id


def _serves(worker: Worker, names: tuple[str, ...], model: str | None) -> bool:
    queue = MLX_QUEUE if names[0] == "mlx" and len(names) == 1 else QUEUE
    reachable = queue in worker.queues or (names[0] == "mlx" and MLX_QUEUE in worker.queues)
    return reachable and worker.serves.takes(names, model) and any(name in worker.providers for name in names)
