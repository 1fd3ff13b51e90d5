"""Responses: OpenAI's present form.

Sources: https://platform.openai.com/docs/api-reference/responses/create,
https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.options import Options, take_mapping
from providers.reader import Json, Reader, count, said
from providers.remote import Question
from providers.types import FinishReason, Request, Tool, Usage

_FINISH: Mapping[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "refusal"}

_INSIDE = {"reasoning_effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}
"""Options by their names in Chat Completions, and where they stand here."""


def question(model: str, request: Request, options: Options, most: int, *, schema: bool) -> Question:
    """Put a request in this form; see `openai_chat.question`."""
    for option, (place, name) in _INSIDE.items():
        inner = take_mapping(options, place, "openai")
        if option in options:
            inner[name] = options.pop(option)
        if inner:
            options[place] = inner
    system = [message["content"] for message in request.messages if message["role"] == "system"]
    body = {
        "max_output_tokens": most,
        "store": False,
        **options,
        **({"instructions": "\n\n".join(system)} if system else {}),
        **(_tool(request.tool, options.get("text", {}), schema=schema) if request.tool else {}),
        "model": model,
        "input": [message for message in request.messages if message["role"] != "system"],
        "stream": True,
    }
    return Question("/responses", body, ResponsesReader())


def _tool(tool: Tool, text: Json, *, schema: bool) -> Json:
    # Strict schemas, the default here, are of a narrower kind than JSON Schema.
    form = {"name": tool.name, "strict": False}
    if schema:
        return {"text": {**text, "format": {"type": "json_schema", **form, "schema": dict(tool.schema)}}}
    function = {"type": "function", **form, "description": tool.description, "parameters": dict(tool.schema)}
    choice = {"type": "function", "name": tool.name}
    return {"tools": [function], "tool_choice": choice, "parallel_tool_calls": False}


class ResponsesReader(Reader):
    """Reads the events of a response, and a whole `response` from servers that do not stream."""

    def __init__(self) -> None:
        super().__init__()
        self._call: object = None

    def fault(self, event: Json) -> object:
        """See Reader; a response that failed tells of it within."""
        if event.get("type") == "response.failed":
            return event["response"].get("error") or {"message": "the response failed"}
        return super().fault(event)

    def read(self, event: Json) -> None:
        """Take an event; see Reader."""
        match event:
            case {"type": "response.output_text.delta", "delta": str(delta)}:
                self.say(delta)
            case {"type": "response.refusal.delta"}:
                self.finish = "refusal"
            case {"type": "response.function_call_arguments.delta", "delta": str(delta)}:
                self._call = self._call or event.get("item_id")
                if event.get("item_id") == self._call:
                    self.argue(delta)
            case {"type": "response.completed" | "response.incomplete" as kind, "response": response}:
                self._end(response, cut=kind == "response.incomplete")
            case {"object": "response", "status": "completed" | "incomplete" as status}:
                self._end(event, cut=status == "incomplete")

    def _end(self, response: Json, *, cut: bool) -> None:
        self.model = said(response.get("model"))
        usage = response.get("usage") or {}
        details = usage.get("input_tokens_details") or {}
        self.usage = Usage(
            count(usage.get("input_tokens")),
            count(usage.get("output_tokens")),
            count(details.get("cached_tokens")) or 0,
            count(details.get("cache_write_tokens")) or 0,
        )
        if not any(self.texts) and not any(self.arguments):
            self._items(response.get("output") or [])
        if cut:
            reason = said((response.get("incomplete_details") or {}).get("reason"))
            self.finish = _FINISH.get(reason, "length")
        self.ended()

    def _items(self, items: list[Any]) -> None:
        for item in items:
            if item.get("type") == "function_call" and not self.arguments:
                self.argue(said(item.get("arguments")))
            for part in item.get("content") or []:
                if part.get("type") == "output_text":
                    self.say(said(part.get("text")))
                elif part.get("type") == "refusal":
                    self.finish = "refusal"
