"""Anthropic Messages. https://platform.claude.com/docs/en/build-with-claude/streaming and …/docs/en/api/errors"""

from __future__ import annotations

from typing import Any, ClassVar

from providers import Usage
from providers.errors import QuotaExceeded, RateLimited, ServerError
from providers.types import FinishReason
from tests.wire.server import Asked
from tests.wire.vendor import ANSWERED, KEY, REQUEST_ID, Event, Question, Vendor

_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use", "refusal": "refusal"}
_INPUT = {"input_tokens": 12, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Anthropic(Vendor):
    name = "anthropic"
    module = "providers.anthropic:AnthropicProvider"
    address = "anthropic_base_url"
    path = "/v1/messages"
    key = "anthropic_api_key"
    credentials: ClassVar = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    request_id = "request-id"
    usage = Usage(20, 7, cached_in=5, cache_written=3)

    def opening(self, *deltas: str) -> list[Event]:
        started = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        parts = [_delta({"type": "text_delta", "text": text}) for text in deltas]
        return [_start(), started, {"type": "ping"}, *parts]

    def closing(self, finish: FinishReason = "stop", text: str = "") -> list[Event]:
        return ending(_FINISH[finish])

    def calling(self, tool: str, *fragments: str) -> list[Event]:
        block = {"type": "tool_use", "id": "toolu_1", "name": tool, "input": {}}
        parts = [_delta({"type": "input_json_delta", "partial_json": part}) for part in ("", *fragments)]
        started = {"type": "content_block_start", "index": 0, "content_block": block}
        return [_start(), started, *parts, *self.closing("tool")]

    def refusing(self) -> list[list[Event]]:
        return [[*self.opening("Well"), *self.closing("refusal")], [_start(), *ending("refusal")[1:]]]

    def failing(self) -> list[tuple[type[Exception], list[Event]]]:
        return [
            (ServerError, [_error("overloaded_error")]),
            (ServerError, [_error("api_error")]),
            (RateLimited, [_error("rate_limit_error")]),
            (QuotaExceeded, [_spend_limit()]),
        ]

    def plain(self, text: str) -> dict[str, Any]:
        content = [{"type": "text", "text": text}]
        usage = {**_INPUT, "output_tokens": 7}
        return {**_start()["message"], "content": content, "stop_reason": "end_turn", "usage": usage}

    def problem(self, message: str, status: int) -> dict[str, Any]:
        return _error(_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error"), message)

    def quotas(self) -> list[tuple[int, dict[str, Any]]]:
        return [(429, _spend_limit()), (402, _error("billing_error"))]

    def read(self, asked: Asked) -> Question:
        body = asked.json()
        system = body.get("system")
        return Question(
            model=body["model"],
            system=system[0]["text"] if isinstance(system, list) else system,
            turns=body["messages"],
            max_tokens=body.get("max_tokens"),
            stream=body["stream"],
            sampling={name: body[name] for name in ("temperature", "top_p", "top_k") if name in body},
        )


def ending(stop_reason: str) -> list[Event]:
    """Return what follows the last delta; the usage is cumulative."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    usage = {**_INPUT, "output_tokens": 7}
    return [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": usage},
        {"type": "message_stop"},
    ]


def _start() -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": ANSWERED,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**_INPUT, "output_tokens": 1},
    }
    return {"type": "message_start", "message": message}


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def _error(kind: str, message: str = "It went wrong.") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": REQUEST_ID}


def _spend_limit() -> dict[str, Any]:
    error = _error("rate_limit_error")
    error["error"]["details"] = {"error_code": "enforced_spend_limit_reached"}
    return error
