"""What a vendor's HTTP interface is to a test: how it writes an answer, and how it reads a question."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import SecretStr

from providers import Completion, Message, Provider, ProviderError, Request, Tool, Usage
from providers.config import Config
from providers.types import FinishReason
from tests.wire.server import Answer, Asked

MODEL = "model-asked"
ANSWERED = "model-answered"
KEY = "sk-test-0123456789abcdef"
REQUEST_ID = "req_0123456789"
SYSTEM = "Be brief."
PROMPT = "Say hello, and guard the word xylophone."
MESSAGES: list[Message] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]

Event = Any
"""One event of a stream: what JSON can hold, or text that is written as it stands."""


@dataclass(frozen=True)
class Question:
    """A request's body in words that all vendors share; what is not there is None."""

    model: str
    system: str | None
    turns: list[Message]
    max_tokens: int | None
    stream: bool
    sampling: dict[str, Any] = field(default_factory=dict)


class Vendor(ABC):
    """One vendor's format. Where a vendor has no form for a thing, the attribute or the list is empty."""

    name: ClassVar[str]
    module: ClassVar[str]
    path: ClassVar[str]
    address: ClassVar[str]
    suffix: ClassVar[str] = ""
    key: ClassVar[str | None] = None
    options: ClassVar[Mapping[str, Any]] = {}
    content_type: ClassVar[str] = "text/event-stream"
    request_id: ClassVar[str | None] = None
    usage: ClassVar[Usage]
    credentials: ClassVar[Mapping[str, str]] = {}

    def provider(self, url: str, *, timeout_s: float = 20.0, model: str = MODEL, **settings: Any) -> Provider:
        """Make the real provider, for a server at that address."""
        module, _, name = self.module.partition(":")
        if self.key:
            settings.setdefault(self.key, SecretStr(KEY))
        config = Config(timeout_s=timeout_s, **{self.address: url + self.suffix, **settings})
        made: Provider = getattr(importlib.import_module(module), name)(model, config)
        return made

    def ask(self, provider: Provider, *, tool: Tool | None = None, **options: Any) -> Completion:
        """Ask a provider in this vendor's dialect."""
        return provider.complete(Request(MESSAGES, tool, {**self.options, **options}))

    @abstractmethod
    def opening(self, *deltas: str) -> list[Event]:
        """Return the events of a text answer that has not yet said that it is finished."""

    @abstractmethod
    def closing(self, finish: FinishReason = "stop", text: str = "") -> list[Event]:
        """Return the events that end an answer."""

    @abstractmethod
    def calling(self, tool: str, *fragments: str) -> list[Event]:
        """Return the events of a whole tool call whose arguments come in fragments."""

    @abstractmethod
    def refusing(self) -> list[list[Event]]:
        """Return each form of a refusal, whole."""

    @abstractmethod
    def failing(self) -> list[tuple[type[Exception], list[Event]]]:
        """Return the events that report an error within a stream, and the error that each stands for."""

    @abstractmethod
    def plain(self, text: str) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""

    @abstractmethod
    def problem(self, message: str, status: int) -> dict[str, Any]:
        """Return the body of an error."""

    @abstractmethod
    def read(self, asked: Asked) -> Question:
        """Read a request's body."""

    def quotas(self) -> list[tuple[int, dict[str, Any]]]:
        """Return each status and body that says that the account has nothing left to spend."""
        return []

    def structured(self, asked: Asked) -> bool:
        """Whether the request wants its tool's arguments as the text of the answer, not as a tool call."""
        return "tools" not in asked.json()

    def encode(self, events: Iterable[Event]) -> bytes:
        """Write events as the body of a stream."""
        return b"".join(sse(event) for event in events)

    def stream(self, events: Iterable[Event]) -> Answer:
        """Return the answer that streams these events."""
        id_header = {self.request_id: REQUEST_ID} if self.request_id else {}
        return Answer(self.encode(events), content_type=self.content_type, headers=id_header)

    def text(self, *deltas: str, finish: FinishReason = "stop") -> Answer:
        """Return a whole streamed answer."""
        return self.stream([*self.opening(*deltas), *self.closing(finish, "".join(deltas))])

    def half(self, **changes: Any) -> Answer:
        """Return an answer that has said half of what it has to say, with other settings of `Answer`."""
        return replace(self.stream(self.opening("half an ", "answer")), **changes)

    def error(self, status: int, message: str = "something is wrong", **headers: str) -> Answer:
        """Return an HTTP error; an underscore in a header's name stands for a dash."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.request_id:
            named[self.request_id] = REQUEST_ID
        return Answer(
            json.dumps(self.problem(message, status)).encode(), status, headers=named, framing="length"
        )

    def arguments(self, asked: Asked, tool: str, *fragments: str) -> Answer:
        """Return arguments of a tool in the way that the request asks for."""
        if self.structured(asked):
            return self.text(*fragments)
        return self.stream(self.calling(tool, *fragments))


def outcome(call: Callable[[], Completion]) -> Completion | ProviderError:
    """Return what a call comes to: the answer or the error; any error that is not typed goes through."""
    try:
        return call()
    except ProviderError as error:
        return error


def sse(event: Event) -> bytes:
    """Write a server-sent event; one that has a type is named for it."""
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    kind = event.get("type") if isinstance(event, dict) else None
    named = f"event: {kind}\n" if isinstance(kind, str) else ""
    return f"{named}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
