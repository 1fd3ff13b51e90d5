"""The values that pass between a caller and a provider."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "tool", "refusal", "error"]


class Message(TypedDict):
    """One turn of a conversation; a plain dict, so that it is JSON as it stands."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model is made to call: its arguments are the answer.

    `schema` is a JSON Schema (2020-12) of the arguments object.
    """

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call as the vendor counted them; None where the vendor does not say."""

    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's whole answer. With a tool, `text` is the JSON of the tool's arguments."""

    text: str
    usage: Usage
    finish_reason: FinishReason
    model: str


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    `options` are the provider's own (temperature, max_tokens, …). `cancelled` is set by the caller when it no
    longer wants the answer; a provider looks at it between chunks and raises `Cancelled`.
    """

    messages: Sequence[Message]
    tool: Tool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
