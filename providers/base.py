"""The Provider protocol: one abstract method, `complete`, and what everybody builds on it."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jsonschema

from providers.config import Config
from providers.errors import InvalidAnswer, Refused, TruncatedAnswer
from providers.types import Completion, Message, Request, Tool, Usage

Answer = TypeVar("Answer")

BYTES_PER_TOKEN = 3
"""Fewer than any current tokenizer has on English text or code, so that an estimate is rather too high."""


class Provider(ABC):
    """A source of completions. Instances are shared by the threads of a worker.

    A vendor implements `complete` alone; it raises nothing but `providers.errors.ProviderError`.
    """

    name: ClassVar[str]
    endpoint: str | None = None
    """Where the answers come from; those that share it fail together. None: nothing there can fail."""

    keeps_to_max_tokens: ClassVar[bool] = True
    """Whether the option max_tokens bounds the answer, so that a budget may cut it short."""

    def __init__(self, model: str | None = None, config: Config | None = None) -> None:
        """Make a provider; NotReady when something is missing that can be seen without asking a server."""
        self.config = config or Config()
        self.model = model or self.config.catalog.default_model(self.name)

    @property
    def source(self) -> str:
        """Whose answers these are, for the cache: providers with the same source and model give the same ones."""
        return self.name

    @abstractmethod
    def complete(self, request: Request) -> Completion:
        """Answer one request. With `request.tool`, the completion's text is the tool's arguments as JSON."""

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """Raise ProviderError unless a request would find all that it needs; asks local servers, never a paid one."""

    def check_options(self, options: Mapping[str, Any]) -> None:  # noqa: B027 - some take none
        """Raise BadRequest when an option has a value that no request could have; nobody is asked."""

    def warm(self) -> None:  # noqa: B027 - most have nothing to load
        """Load what the first request would have to wait for."""

    def preferred_model(self) -> str | None:
        """The model to ask when the user names none: what is there already, for a provider that can tell."""
        return self.model

    def estimate(self, request: Request) -> Usage:
        """About how many tokens a request will take, rather too many than too few: what a budget sets aside for it."""
        text = sum(len(message["content"].encode(errors="replace")) for message in request.messages)
        schema = len(json.dumps(dict(request.tool.schema))) if request.tool else 0
        asked = request.options.get("max_tokens")
        most = asked if isinstance(asked, int) and asked > 0 else self.config.catalog.max_tokens(self.name)
        return Usage(math.ceil((text + schema) / BYTES_PER_TOKEN) + 8 * len(request.messages), most)

    def generate(self, messages: Sequence[Message], **options: Any) -> Completion:
        """Answer a conversation with text."""
        return self.complete(Request(messages, options=options))

    def tool_call(self, messages: Sequence[Message], tool: Tool, **options: Any) -> dict[str, Any]:
        """Answer a conversation with arguments that fit the tool's schema; one re-ask when they do not."""
        request = Request(messages, tool=tool, options=options)
        return ask(self.complete, request, lambda completion: arguments(completion, tool))[1]


def ask(
    complete: Callable[[Request], Completion],
    request: Request,
    read: Callable[[Completion], Answer],
    *,
    reasks: int = 1,
) -> tuple[Completion, Answer]:
    """Ask until `read` can make something of the answer, at most `reasks` times more.

    Each re-ask shows the model its answer and what is wrong with it.

    Args:
        complete: Where the question goes: a provider's own `complete`, or a wrapper around it.
        request: The question.
        read: Turns an answer into what the caller wants; its ValueError says what is wrong with the answer.
        reasks: Further questions after the first.

    Raises:
        InvalidAnswer: Not even the last answer could be read.
        TruncatedAnswer: An answer ended at the token limit.
        Refused: The model declined.
    """
    messages = list(request.messages)
    for asks_left in reversed(range(reasks + 1)):
        completion = complete(Request(messages, request.tool, request.options, request.cancelled))
        try:
            return completion, read(whole(completion))
        except ValueError as error:
            if not asks_left:
                raise InvalidAnswer(f"the answer is not usable: {error}") from error
            messages = [
                *messages,
                {"role": "assistant", "content": completion.text},
                {
                    "role": "user",
                    "content": f"That is not usable: {error}\nAnswer again, whole and corrected.",
                },
            ]
    raise ValueError("reasks must not be negative")


def whole(completion: Completion) -> Completion:
    """Return the completion if it ended by itself; half an answer is never used."""
    if completion.finish_reason == "length":
        raise TruncatedAnswer("the answer was cut off at the token limit; raise max_tokens")
    if completion.finish_reason == "refusal":
        raise Refused("the model declined to answer")
    return completion


def arguments(completion: Completion, tool: Tool) -> dict[str, Any]:
    """Read a completion as arguments of a tool; ValueError says what does not fit its schema."""
    values = json.loads(completion.text)
    json.dumps(
        values, ensure_ascii=False
    ).encode()  # its ValueError: half a surrogate pair, which nothing can store
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, got {type(values).__name__}")  # noqa: TRY004
    try:
        jsonschema.validate(values, tool.schema)
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path)) or "the object"
        raise ValueError(
            f"{where} does not fit {error.validator}: {error.validator_value!r}"[:300]
        ) from error
    return values
