"""Ollama's own interface. https://docs.ollama.com/api/chat and …/api/errors"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from providers import Usage
from providers.errors import ServerError
from providers.types import FinishReason
from tests.wire.server import Asked
from tests.wire.vendor import ANSWERED, Event, Question, Vendor

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty")


class Ollama(Vendor):
    name = "ollama"
    module = "providers.ollama:OllamaProvider"
    address = "ollama_host"
    path = "/api/chat"
    content_type = "application/x-ndjson"
    usage = Usage(20, 7)

    def opening(self, *deltas: str) -> list[Event]:
        return [_line({"role": "assistant", "content": text}) for text in deltas]

    def closing(self, finish: FinishReason = "stop", text: str = "") -> list[Event]:
        return [
            {
                **_line({"role": "assistant", "content": ""}),
                **_done("length" if finish == "length" else "stop"),
            }
        ]

    def calling(self, tool: str, *fragments: str) -> list[Event]:
        call = {"function": {"index": 0, "name": tool, "arguments": json.loads("".join(fragments))}}
        return [_line({"role": "assistant", "content": "", "tool_calls": [call]}), *self.closing()]

    def refusing(self) -> list[list[Event]]:
        return []

    def failing(self) -> list[tuple[type[Exception], list[Event]]]:
        return [(ServerError, [{"error": "an error was encountered while running the model"}])]

    def plain(self, text: str) -> dict[str, Any]:
        return {**_line({"role": "assistant", "content": text}), **_done("stop")}

    def problem(self, message: str, status: int) -> dict[str, Any]:
        return {"error": message}

    def read(self, asked: Asked) -> Question:
        body = asked.json()
        options = body.get("options", {})
        system = [turn["content"] for turn in body["messages"] if turn["role"] == "system"]
        return Question(
            model=body["model"],
            system=system[0] if system else None,
            turns=[turn for turn in body["messages"] if turn["role"] != "system"],
            max_tokens=options.get("num_predict"),
            stream=body["stream"],
            sampling={name: options[name] for name in SAMPLING if name in options},
        )

    def encode(self, events: Iterable[Event]) -> bytes:
        lines = (
            event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events
        )
        return "".join(f"{line}\n" for line in lines).encode()


def _line(message: dict[str, Any]) -> dict[str, Any]:
    return {"model": ANSWERED, "created_at": "2026-11-20T08:00:00.123456Z", "message": message, "done": False}


def _done(reason: str) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": reason,
        "total_duration": 1_500_000_000,
        "load_duration": 100_000_000,
        "prompt_eval_count": 20,
        "prompt_eval_duration": 200_000_000,
        "eval_count": 7,
        "eval_duration": 1_200_000_000,
    }
