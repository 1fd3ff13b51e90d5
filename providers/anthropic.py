"""Anthropic's Messages.

Sources: https://platform.claude.com/docs/en/api/messages, https://platform.claude.com/docs/en/api/errors,
https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from providers.address import Address, key_of
from providers.errors import AuthFailed, NotReady, ProviderError, QuotaExceeded
from providers.options import Options, take_mapping, take_whole
from providers.reader import Json, Reader, count, said
from providers.remote import Question, RemoteProvider
from providers.types import FinishReason, Message, Request, Tool, Usage

OWN = "https://api.anthropic.com"
VERSION = "2023-06-01"

STOP_REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # The turn is not over, and what would go on with it is not asked for here.
    "refusal": "refusal",
}


class AnthropicProvider(RemoteProvider):
    """Anthropic, or a server that speaks Messages where ANTHROPIC_BASE_URL names one.

    Options of ours: `max_tokens`, `effort`, `stop`, `timeout_s`. Others go to the vendor as they are, `tool_choice`
    over ours; none that samples is sent unasked, because newer models refuse them.
    """

    name: ClassVar[str] = "anthropic"

    words: ClassVar[Mapping[str, type[ProviderError]]] = {
        "enforced_spend_limit_reached": QuotaExceeded,
        "billing_error": QuotaExceeded,
    }
    advice: ClassVar[Mapping[type[ProviderError], str]] = {
        AuthFailed: "see ANTHROPIC_API_KEY",
        NotReady: "is there a model {model} at {endpoint}? See --model and ANTHROPIC_BASE_URL",
    }

    @property
    def source(self) -> str:
        """See Provider."""
        return f"{self.name} at {self.endpoint}" if self.config.anthropic_base_url else self.name

    def _address(self) -> Address:
        address = Address.of(self.config.anthropic_base_url or OWN, "ANTHROPIC_BASE_URL", self.name)
        return address if address.path.endswith("/v1") else address.moved(address.path + "/v1")

    def _identity(self) -> dict[str, str]:
        key = key_of(self.config.anthropic_api_key, "ANTHROPIC_API_KEY", self.name)
        if not key and not self.config.anthropic_base_url:
            raise NotReady("there is no key; set ANTHROPIC_API_KEY", self.name)
        return {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}

    def _question(self, request: Request, options: Options) -> Question:
        most = take_whole(options, "max_tokens", self.name) or self.config.catalog.max_tokens(self.name)
        output = take_mapping(options, "output_config", self.name)
        if effort := options.pop("effort", None):
            output["effort"] = effort
        if stop := options.pop("stop", None):
            options["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        body = {
            "max_tokens": most,
            **(_tool(request.tool) if request.tool else {}),
            **options,
            **({"output_config": output} if output else {}),
            **_system(request),
            "model": self.asked,
            "messages": _turns(request.messages),
            "stream": True,
        }
        return Question("/messages", body, MessagesReader())


def _tool(tool: Tool) -> Json:
    """Describe a tool. Present models answer 400 when they are made to call it, so they are only told to.

    https://platform.claude.com/docs/en/models/sonnet-5-5/whats-new-sonnet-5-5#forced-tool-use-is-not-supported
    """
    described = {"name": tool.name, "description": tool.description, "input_schema": dict(tool.schema)}
    return {"tools": [described], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}


def _system(request: Request) -> Json:
    told = [message["content"] for message in request.messages if message["role"] == "system"]
    if request.tool:
        told.append(f"Answer by calling {request.tool.name} once; its arguments are your whole answer.")
    return {"system": "\n\n".join(told)} if told else {}


def _turns(messages: Iterable[Message]) -> list[Message]:
    """The conversation without its system messages; an empty turn, which the vendor refuses, is told in words."""
    turns: list[Message] = [message for message in messages if message["role"] != "system"]
    return [turn if turn["content"].strip() else {**turn, "content": "(nothing)"} for turn in turns]


class MessagesReader(Reader):
    """Reads the events of a message, and a whole `message` from servers that do not stream."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Json = {}
        self._tool: object = None

    def read(self, event: Json) -> None:
        """Take an event; see Reader."""
        match event:
            case {"type": "message_start", "message": message}:
                self._message(message)
            case {"type": "content_block_start", "content_block": block}:
                self._block(block, event.get("index", 0))
            case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": str(text)}}:
                self.say(text)
            case {
                "type": "content_block_delta",
                "delta": {"type": "input_json_delta", "partial_json": str(part)},
            }:
                if event.get("index", 0) == self._tool:
                    self.argue(part)
            case {"type": "message_delta"}:
                self._stop(event.get("delta") or {})
                self._count(event.get("usage"))
            case {"type": "message_stop"}:
                self.ended()
            case {"type": "message", "stop_reason": str()}:
                self._message(event)
                self.ended()

    def _message(self, message: Json) -> None:
        self.model = said(message.get("model"))
        self._count(message.get("usage"))
        for index, block in enumerate(message.get("content") or []):
            self._block(block, index)
        self._stop(message)

    def _block(self, block: Json, index: object) -> None:
        if block.get("type") == "text":
            self.say(said(block.get("text")))
        elif block.get("type") == "tool_use" and self._tool is None:
            self._tool = index
            given = block.get("input")
            self.argue(json.dumps(given, ensure_ascii=False) if given else "")

    def _stop(self, said_so: Json) -> None:
        if reason := said(said_so.get("stop_reason")):
            self.finish = STOP_REASONS.get(reason, "stop")

    def _count(self, usage: Any) -> None:
        """Take token counts; those of a later event are cumulative and go before, where it tells them."""
        known = {name: count(value) for name, value in (usage or {}).items()}
        self._counts |= {name: value for name, value in known.items() if value is not None}
        read = self._counts.get("cache_read_input_tokens", 0)
        written = self._counts.get("cache_creation_input_tokens", 0)
        plain = self._counts.get("input_tokens")
        whole = None if plain is None else plain + read + written
        self.usage = Usage(whole, self._counts.get("output_tokens"), read, written)
