"""OpenAI Responses. https://developers.openai.com/api/reference/resources/responses/streaming-events"""

from __future__ import annotations

from typing import Any, ClassVar

from providers.errors import QuotaExceeded, RateLimited, ServerError
from providers.types import FinishReason
from tests.wire.openai_chat import SAMPLING, OpenAIChat
from tests.wire.server import Asked
from tests.wire.vendor import ANSWERED, Event, Question

_USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 27,
}


class OpenAIResponses(OpenAIChat):
    name = "openai-responses"
    path = "/v1/responses"
    options: ClassVar = {"api": "responses"}

    def opening(self, *deltas: str) -> list[Event]:
        item = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
        return [
            *_begun(),
            _event("output_item.added", output_index=0, item=item),
            _event("content_part.added", **_PART, part=_text("")),
            *(_event("output_text.delta", **_PART, delta=text, logprobs=[]) for text in deltas),
        ]

    def closing(self, finish: FinishReason = "stop", text: str = "") -> list[Event]:
        done = _event("output_text.done", **_PART, text=text, logprobs=[])
        return [done, *_message(_text(text), finish)]

    def calling(self, tool: str, *fragments: str) -> list[Event]:
        call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": tool}
        whole = {**call, "arguments": "".join(fragments), "status": "completed"}
        item = {"item_id": "fc_1", "output_index": 0}
        return [
            *_begun(),
            _event(
                "output_item.added", output_index=0, item={**call, "arguments": "", "status": "in_progress"}
            ),
            *(_event("function_call_arguments.delta", **item, delta=part) for part in fragments),
            _event("function_call_arguments.done", **item, arguments="".join(fragments)),
            _event("output_item.done", output_index=0, item=whole),
            _event("completed", response=_response("completed", [whole])),
        ]

    def refusing(self) -> list[list[Event]]:
        said = [
            _event("refusal.delta", **_PART, delta="I can't."),
            _event("refusal.done", **_PART, refusal="I can't."),
        ]
        return [
            [*_begun(), *said, *_message({"type": "refusal", "refusal": "I can't."})],
            [*self.opening("Well"), *self.closing("refusal", "Well")],
        ]

    def failing(self) -> list[tuple[type[Exception], list[Event]]]:
        return [
            (ServerError, [_error("server_error")]),
            (RateLimited, [_error("rate_limit_exceeded")]),
            (ServerError, [_failed("server_error")]),
            (RateLimited, [_failed("rate_limit_exceeded")]),
            (QuotaExceeded, [_failed("credit_balance_exhausted")]),
        ]

    def plain(self, text: str) -> dict[str, Any]:
        return _response("completed", [_item(_text(text))])

    def read(self, asked: Asked) -> Question:
        body = asked.json()
        turns = body["input"]
        return Question(
            model=body["model"],
            system=body.get("instructions"),
            turns=[{"role": "user", "content": turns}] if isinstance(turns, str) else turns,
            max_tokens=body.get("max_output_tokens"),
            stream=body["stream"],
            sampling={name: body[name] for name in SAMPLING if name in body},
        )


_PART = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def _event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"sequence_number": 1, **fields, "type": f"response.{kind}"}


def _begun() -> list[Event]:
    return [_event(kind, response=_response("in_progress", [])) for kind in ("created", "in_progress")]


def _message(part: dict[str, Any], finish: FinishReason = "stop") -> list[Event]:
    """Return what follows the last delta of a message with one part."""
    cut = {"length": "max_output_tokens", "refusal": "content_filter"}.get(finish)
    status = "incomplete" if cut else "completed"
    item = {**_item(part), "status": status}
    response = {**_response(status, [item]), "incomplete_details": {"reason": cut} if cut else None}
    return [
        _event("content_part.done", **_PART, part=part),
        _event("output_item.done", output_index=0, item=item),
        _event(status, response=response),
    ]


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}


def _response(status: str, output: list[Any]) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": ANSWERED,
        "output": output,
        "usage": None if status == "in_progress" else _USAGE,
    }


def _error(code: str) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": "It went wrong.", "param": None, "sequence_number": 1}


def _failed(code: str) -> dict[str, Any]:
    error = {"code": code, "message": "It went wrong."}
    return _event("failed", response={**_response("failed", []), "error": error, "usage": None})
