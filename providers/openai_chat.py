"""Chat Completions: the form that OpenAI had first and compatible servers speak.

Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import Mapping

from providers.options import Options
from providers.reader import Json, Reader, count, said
from providers.remote import Question
from providers.types import FinishReason, Request, Tool, Usage

_FINISH: Mapping[str, FinishReason] = {"length": "length", "content_filter": "refusal"}


def question(
    model: str, request: Request, options: Options, most: int, *, schema: bool, own: bool
) -> Question:
    """Put a request in this form.

    Args:
        model: The model that is asked.
        request: What is asked.
        options: What goes to the server as it is.
        most: Tokens that the answer may have.
        schema: Whether a tool's arguments are to be the text of the answer, not a call.
        own: Whether OpenAI itself will read it.
    """
    body = {
        # Compatible servers know the older name; OpenAI's newer models refuse it.
        "max_completion_tokens" if own else "max_tokens": most,
        "stream_options": {"include_usage": True},
        **options,
        **(_tool(request.tool, schema=schema, own=own) if request.tool else {}),
        "model": model,
        "messages": list(request.messages),
        "stream": True,
    }
    return Question("/chat/completions", body, ChatReader())


def _tool(tool: Tool, *, schema: bool, own: bool) -> Json:
    if schema:
        form = {"name": tool.name, "schema": dict(tool.schema)}
        return {"response_format": {"type": "json_schema", "json_schema": form}}
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.schema)}
    named = {"type": "function", "function": {"name": tool.name}}
    # There is no other tool, so `required` says as much, and LM Studio answers 400 to a tool that is named:
    # https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/670
    choice = named if own else "required"
    return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}


class ChatReader(Reader):
    """Reads `chat.completion.chunk`, and `chat.completion` from servers that do not stream."""

    def read(self, event: Json) -> None:
        """Take a chunk; see Reader. The token counts come after the last choice."""
        self.model = said(event.get("model")) or self.model
        if usage := event.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            self.usage = Usage(
                count(usage.get("prompt_tokens")),
                count(usage.get("completion_tokens")),
                count(details.get("cached_tokens")) or 0,
                count(details.get("cache_write_tokens")) or 0,
            )
        for choice in (event.get("choices") or [])[:1]:
            self._part(choice.get("delta") or choice.get("message") or {})
            if reason := said(choice.get("finish_reason")):
                self.finish = _FINISH.get(reason, self.finish)
                self.whole = True

    def _part(self, part: Json) -> None:
        self.say(said(part.get("content")))
        if said(part.get("refusal")):
            self.finish = "refusal"
        for call in part.get("tool_calls") or []:
            if not call.get("index"):  # A second call in one answer is none that was asked for.
                self.argue(said((call.get("function") or {}).get("arguments")))
