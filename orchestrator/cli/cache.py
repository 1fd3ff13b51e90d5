"""`orch cache`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from orchestrator.cache import Cache, make_cache
from orchestrator.cli import options
from orchestrator.cli.output import print_json
from orchestrator.connection import connect, require
from orchestrator.diskcache import DiskCache
from orchestrator.history import LOOK_S, redis_url
from orchestrator.names import RUNS_CACHE_DIR
from orchestrator.settings import Settings, load_settings


@click.group(name="cache")
def command() -> None:
    """Look at the cache of completions, or empty it: the fleet's in Redis and this machine's on disk."""


@command.command(name="stats")
@options.as_json
def stats(as_json: bool) -> None:
    """Tell how full the cache is."""
    settings = load_settings()
    limit = {"ttl_s": settings.orch_cache_ttl_s, "max_bytes": settings.orch_cache_max_mb << 20}
    entries, used = _disk(settings).stats()
    layers: dict[str, dict[str, Any]] = {
        "disk": {"entries": entries, "bytes": used, "folder": str(_disk(settings).folder), **limit}
    }
    with _fleets(settings) as cache:
        if cache:
            layer = cache.stats()
            layers["redis"] = {"entries": layer.entries, "bytes": layer.bytes, **limit}
    if as_json:
        print_json({"redis": None, **layers})
        return
    for name, about in layers.items():
        click.echo(
            f"{name}: {about['entries']} entries, {_size(about['bytes'])} of {_size(about['max_bytes'])}"
        )


@command.command(name="clear")
@options.as_json
def clear(as_json: bool) -> None:
    """Empty this machine's layer, and the fleet's where there is a Redis."""
    settings = load_settings()
    removed: dict[str, int | None] = {"redis": None}
    with _fleets(settings) as cache:
        if cache:
            removed["redis"] = cache.clear()
    removed["disk"] = _disk(settings).clear()
    if as_json:
        print_json({"removed": removed})
        return
    click.echo(
        "; ".join(f"{name}: {count} entries removed" for name, count in removed.items() if count is not None)
    )


def _disk(settings: Settings) -> DiskCache:
    folder = settings.orch_runs_dir / RUNS_CACHE_DIR
    return DiskCache(folder, settings.orch_cache_ttl_s, settings.orch_cache_max_mb << 20)


@contextmanager
def _fleets(settings: Settings) -> Iterator[Cache | None]:
    """The fleet's cache; None when no Redis is named."""
    url = redis_url(settings)
    if url is None:
        yield None
        return
    require(connect(url, timeout_s=LOOK_S))
    client = connect(url)
    yield make_cache(client, settings)
    client.close()


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
