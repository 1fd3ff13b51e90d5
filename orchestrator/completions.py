"""Completions as they are stored, and the key under which an answer is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from providers import Completion, FinishReason, Request, Usage

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


def request_key(provider: str, model: str | None, request: Request, *, kind: str, version: str) -> str:
    """SHA256 over everything that decides the answer, as canonical JSON.

    Args:
        provider: Whose answers: the provider's name, and its address where the same names mean other models there.
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
