"""OpenAI Chat Completions, as OpenAI and compatible servers write it.

https://developers.openai.com/api/reference/resources/chat/subresources/completions/streaming-events
"""

from __future__ import annotations

from typing import Any, ClassVar

from providers import Usage
from providers.errors import QuotaExceeded, RateLimited, ServerError
from providers.types import FinishReason
from tests.wire.server import Asked
from tests.wire.vendor import ANSWERED, KEY, Event, Question, Vendor

_FINISH = {"stop": "stop", "length": "length", "tool": "tool_calls", "refusal": "content_filter"}
_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
QUOTA_CODES = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "top_k")


class OpenAIChat(Vendor):
    name = "openai-chat"
    module = "providers.openai:OpenAIProvider"
    address = "openai_base_url"
    suffix = "/v1"
    path = "/v1/chat/completions"
    key = "openai_api_key"
    credentials: ClassVar = {"authorization": f"Bearer {KEY}"}
    request_id = "x-request-id"
    usage = Usage(20, 7, cached_in=5)

    def opening(self, *deltas: str) -> list[Event]:
        return [_chunk({"role": "assistant", "content": ""}), *(_chunk({"content": text}) for text in deltas)]

    def closing(self, finish: FinishReason = "stop", text: str = "") -> list[Event]:
        return [_chunk({}, _FINISH[finish]), {**_chunk(), "choices": [], "usage": _USAGE}, "[DONE]"]

    def calling(self, tool: str, *fragments: str) -> list[Event]:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": tool, "arguments": ""}}
        parts = [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in fragments]
        first = _chunk({"role": "assistant", "content": None, "tool_calls": [call]})
        return [first, *map(_chunk, parts), *self.closing("tool")]

    def refusing(self) -> list[list[Event]]:
        said = [
            _chunk({"role": "assistant", "content": None, "refusal": ""}),
            _chunk({"refusal": "I can't."}),
        ]
        return [[*said, *self.closing()], [*self.opening("Well"), *self.closing("refusal")]]

    def failing(self) -> list[tuple[type[Exception], list[Event]]]:
        return [
            (ServerError, [_error("server_error", None)]),
            (RateLimited, [_error("rate_limit_error", "rate_limit_exceeded")]),
            (QuotaExceeded, [_error("insufficient_quota", "credit_balance_exhausted")]),
        ]

    def plain(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {**_chunk(), "object": "chat.completion", "choices": [choice], "usage": _USAGE}

    def problem(self, message: str, status: int) -> dict[str, Any]:
        return _error("server_error" if status >= 500 else "invalid_request_error", None, message)

    def quotas(self) -> list[tuple[int, dict[str, Any]]]:
        return [(429, _error("insufficient_quota", code)) for code in QUOTA_CODES]

    def read(self, asked: Asked) -> Question:
        body = asked.json()
        system = [turn["content"] for turn in body["messages"] if turn["role"] in ("system", "developer")]
        return Question(
            model=body["model"],
            system=system[0] if system else None,
            turns=[turn for turn in body["messages"] if turn["role"] not in ("system", "developer")],
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
            stream=body["stream"],
            sampling={name: body[name] for name in SAMPLING if name in body},
        )


def _chunk(delta: dict[str, Any] | None = None, finish: str | None = None) -> dict[str, Any]:
    choices = (
        [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    )
    return {
        "id": "chatcmpl-CexvQBW3kmhK6Jjj8vT0LpE5nQyZ1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": ANSWERED,
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": choices,
        "usage": None,
        "obfuscation": "k3Vb9Qx",
    }


def _error(kind: str, code: str | None, message: str = "It went wrong.") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
