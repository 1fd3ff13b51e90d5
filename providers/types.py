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
    """Tokens of one call as the vendor counted them; None where the vendor does not say.

    `tokens_in` is the whole prompt; `cached_in` of them were read from the vendor's own prompt cache and
    `cache_written` were written to it, which have prices of their own. `tokens_out` includes reasoning.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    cached_in: int = 0
    cache_written: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a vendor's rate-limit headers say is left, and for how long: seconds until the figure is whole again."""

    requests: int | None = None
    requests_reset_s: float | None = None
    tokens: int | None = None
    tokens_reset_s: float | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's whole answer. With a tool, `text` is the JSON of the tool's arguments.

    `model` is the one that answered, in the vendor's words; `request_id` is the vendor's, for its support.
    """

    text: str
    usage: Usage
    finish_reason: FinishReason
    model: str
    request_id: str | None = None
    allowance: Allowance | None = None


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
