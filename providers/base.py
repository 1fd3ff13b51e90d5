"""The Provider protocol: one abstract method, `complete`, and the two calls that everybody uses, built on it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jsonschema

from providers.errors import InvalidAnswer, Refused, TruncatedAnswer
from providers.types import Completion, Message, Request, Tool

Answer = TypeVar("Answer")


class Provider(ABC):
    """A source of completions. Instances are shared by the threads of a worker.

    A vendor implements `complete` alone; it raises nothing but `providers.errors.ProviderError`.
    """

    name: ClassVar[str]

    def __init__(self, model: str | None = None) -> None:
        self.model = model

    @abstractmethod
    def complete(self, request: Request) -> Completion:
        """Answer one request. With `request.tool`, the completion's text is the tool's arguments as JSON."""

    def generate(self, messages: Sequence[Message], **options: Any) -> Completion:
        """Answer a conversation with text."""
        return self.complete(Request(messages, options=options))

    def tool_call(self, messages: Sequence[Message], tool: Tool, **options: Any) -> dict[str, Any]:
        """Answer a conversation with arguments that fit the tool's schema; one re-ask when they do not."""
        return tool_call(self.complete, Request(messages, tool=tool, options=options), dict)


def tool_call(
    complete: Callable[[Request], Completion],
    request: Request,
    parse: Callable[[dict[str, Any]], Answer],
    *,
    reasks: int = 1,
) -> Answer:
    """Ask for a tool's arguments until they fit its schema and `parse` takes them, at most `reasks` times more.

    Each re-ask shows the model its answer and what is wrong with it.

    Args:
        complete: Where the question goes: a provider's own `complete`, or a wrapper around it.
        request: The question; `request.tool` must be set.
        parse: Turns valid arguments into what the caller wants; a ValueError from it counts as an invalid answer.
        reasks: Further questions after the first.

    Raises:
        InvalidAnswer: The last answer still did not fit.
        TruncatedAnswer: An answer ended at the token limit.
        Refused: The model declined.
    """
    if request.tool is None:
        raise ValueError("tool_call needs a request with a tool")
    schema, messages = request.tool.schema, list(request.messages)
    for asked in range(reasks + 1):
        completion = complete(Request(messages, request.tool, request.options, request.cancelled))
        try:
            return parse(_arguments(completion, schema))
        except ValueError as error:
            if asked == reasks:
                raise InvalidAnswer(f"the answer does not fit {request.tool.name}: {error}") from error
            messages += [
                {"role": "assistant", "content": completion.text},
                {"role": "user", "content": f"That does not fit: {error}\nAnswer again, whole and corrected."},
            ]
    raise AssertionError("unreachable")


def _arguments(completion: Completion, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Read a completion's text as the arguments object of a tool; ValueError says what does not fit."""
    if completion.finish_reason == "length":
        raise TruncatedAnswer("the answer was cut off at the token limit; raise max_tokens")
    if completion.finish_reason == "refusal":
        raise Refused("the model declined to answer")
    arguments = json.loads(completion.text)
    if not isinstance(arguments, dict):
        raise ValueError(f"expected a JSON object, got {type(arguments).__name__}")  # noqa: TRY004
    try:
        jsonschema.validate(arguments, schema)
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path)) or "the object"
        raise ValueError(f"{where}: {error.message[:300]}") from error
    return arguments
