"""The cache of completions: the fleet's layer in Redis, and under it this machine's on disk.

A second run of an unchanged spec calls no provider, even when its Redis is a new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.atomic import write_whole
from orchestrator.names import RUNS_CACHE_DIR, cache_key
from providers import Completion, FinishReason, Request, Usage

log = logging.getLogger(__name__)

TRANSPORT_OPTIONS = frozenset({"timeout_s", "keep_alive", "latency_s"})
"""Options that change how an answer comes, not what it says: no part of the key."""


class Entry(BaseModel):
    """A completion as it is stored; `key` and `text_sha256` betray an entry that was damaged or misfiled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    provider: str
    model: str
    text: str
    text_sha256: str
    finish_reason: FinishReason
    tokens_in: int | None
    tokens_out: int | None

    @classmethod
    def of(cls, key: str, provider: str, completion: Completion) -> Entry:
        """Store a completion under a key."""
        return cls(
            key=key,
            provider=provider,
            model=completion.model,
            text=completion.text,
            text_sha256=_sha256(completion.text),
            finish_reason=completion.finish_reason,
            tokens_in=completion.usage.tokens_in,
            tokens_out=completion.usage.tokens_out,
        )

    def completion(self) -> Completion:
        """The completion that was stored."""
        return Completion(self.text, Usage(self.tokens_in, self.tokens_out), self.finish_reason, self.model)


@dataclass(frozen=True, slots=True)
class Hit:
    """A found entry and the layer it came from."""

    entry: Entry
    layer: Literal["redis", "disk"]


def request_key(provider: str, model: str | None, request: Request, *, kind: str, version: str) -> str:
    """SHA256 over everything that decides the answer, as canonical JSON.

    Args:
        provider: Name of the provider.
        model: The model asked for, with its revision where it has one.
        request: Messages, tool schema and options.
        kind: Step kind that asks.
        version: Hash of the step's own code and prompt.
    """
    tool = request.tool
    return _sha256(
        json.dumps(
            {
                "provider": provider,
                "model": model,
                "options": {k: v for k, v in request.options.items() if k not in TRANSPORT_OPTIONS},
                "kind": kind,
                "version": version,
                "messages": list(request.messages),
                "tool": tool
                and {"name": tool.name, "description": tool.description, "schema": _plain(tool.schema)},
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
    )


class Cache:
    """Two layers, read in turn and written together. Safe to share between threads."""

    def __init__(self, client: redis.Redis, runs_dir: Path, ttl_s: int) -> None:
        self._client = client
        self._folder = runs_dir / RUNS_CACHE_DIR
        self._ttl_s = ttl_s

    def get(self, key: str) -> Hit | None:
        """Return the entry, None when there is none or it is damaged."""
        raw: Any = self._client.get(cache_key(key))
        if raw and (entry := parse_entry(raw, key)):
            return Hit(entry, "redis")
        if entry := self._on_disk(key):
            self._client.set(cache_key(key), entry.model_dump_json(), ex=self._ttl_s)
            return Hit(entry, "disk")
        return None

    def put(self, entry: Entry) -> None:
        """Store an entry in both layers. A full or read-only disk costs only the disk's layer."""
        self._client.set(cache_key(entry.key), entry.model_dump_json(), ex=self._ttl_s)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / f"{entry.key}.json", entry.model_dump_json(indent=1).encode())
        except OSError as error:
            log.warning("this machine's cache layer was not written: %s", error)

    def _on_disk(self, key: str) -> Entry | None:
        try:
            raw = (self._folder / f"{key}.json").read_bytes()
        except OSError:
            return None
        return parse_entry(raw, key)


def parse_entry(raw: bytes, key: str) -> Entry | None:
    """Read a stored entry; None when it is not whole or not what its name says."""
    try:
        entry = Entry.model_validate_json(raw)
    except ValidationError:
        return None
    return entry if entry.key == key and entry.text_sha256 == _sha256(entry.text) else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    return dict(schema)
