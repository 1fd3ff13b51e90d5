"""What the providers behind HTTP share: a question is posted, its answer comes as a stream of events."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from providers.address import Address
from providers.base import Provider
from providers.config import Config
from providers.conversation import converse, fetch
from providers.errors import BadRequest, NotReady, ProviderError
from providers.faults import Border
from providers.http import Exchange, run
from providers.options import Options, check_sampling, take_number
from providers.reader import Reader
from providers.sse import EventStream, Framing
from providers.types import Completion, Request

CHECK_S = 2.0
"""How long a server may take to say that it is there."""

SECRET = ("authorization", "x-api-key")
"""Headers whose values no message shows."""

PATIENCE = 10
"""A call may take so many times what a silence may take, unless option `timeout_s` says how long."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request in a vendor's form: what is posted where, and who reads the answer."""

    path: str
    body: Mapping[str, Any]
    reader: Reader


class RemoteProvider(Provider):
    """A provider behind HTTP. A vendor says how it asks (`_question`) and what its failures mean (`words`)."""

    framing: ClassVar[type[Framing]] = EventStream
    words: ClassVar[Mapping[str, type[ProviderError]]] = {}
    advice: ClassVar[Mapping[type[ProviderError], str]] = {}

    def __init__(self, model: str | None = None, config: Config | None = None) -> None:
        super().__init__(model, config)
        self.address = self._address()
        self.endpoint = self.address.endpoint
        self._identity()

    @property
    def asked(self) -> str:
        """The model that is asked; NotReady when none is named and the vendor has no default."""
        if not self.model:
            raise NotReady("no model is named; see --model", self.name)
        return self.model

    @abstractmethod
    def _address(self) -> Address:
        """Where the vendor is; NotReady when what the configuration says is no address."""

    @abstractmethod
    def _identity(self) -> dict[str, str]:
        """The headers that say who asks; NotReady when a key is missing. Made anew each time: they are secrets."""

    @abstractmethod
    def _question(self, request: Request, options: Options) -> Question:
        """Put a request in the vendor's form. The options are a copy, to take from."""

    def complete(self, request: Request) -> Completion:
        """Ask once; see Provider."""
        options, total_s = self._given(request.options)
        prompts = [message["content"] for message in request.messages]
        try:
            "".join(prompts).encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                "the prompt holds half a character, which nothing can store", self.name
            ) from error
        question = self._question(request, options)
        exchange = self._exchange("POST", question.path, self.config.timeout_s, total_s, question.body)
        border = self._border(prompts)
        talk = converse(exchange, question.reader, self.framing, border)
        headers = run(talk, self.name, request.cancelled)
        return question.reader.completion(self.asked, headers, tool=request.tool is not None)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Put a request with these options in the vendor's form, and send it nowhere; see Provider."""
        self._question(Request([{"role": "user", "content": ""}]), self._given(options)[0])

    def _given(self, given: Mapping[str, Any]) -> tuple[Options, float]:
        """The options for the vendor, and how many seconds the call may take in all."""
        options = {name: value for name, value in given.items() if value is not None}
        check_sampling(options, self.name)
        total_s = take_number(options, "timeout_s", self.name) or PATIENCE * self.config.timeout_s
        return options, total_s

    def _get(self, path: str) -> object:
        """What a server answers to a short GET, as JSON; None when it is not JSON."""
        exchange = self._exchange("GET", path, CHECK_S, 2 * CHECK_S)
        body = run(fetch(exchange, self._border([])), self.name)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None

    def _exchange(
        self, method: str, path: str, silence_s: float, total_s: float, body: Mapping[str, Any] | None = None
    ) -> Exchange:
        # Uncompressed: streams of small events gain nothing, and no bomb can be sent.
        headers = {"accept-encoding": "identity", "content-type": "application/json"}
        if self.address.login:
            headers["authorization"] = self.address.login
        try:
            content = json.dumps(body, allow_nan=False).encode() if body else None
        except (TypeError, ValueError) as error:
            raise BadRequest(f"an option cannot be written as JSON: {error}", self.name) from error
        return Exchange(
            method, self.address.at(path), headers | self._identity(), silence_s, total_s, content
        )

    def _border(self, prompts: Sequence[str]) -> Border:
        secrets = [self._identity().get(name) for name in SECRET]
        keys = tuple(secret.rpartition(" ")[2] for secret in (self.address.login, *secrets) if secret)
        advice = {
            kind: say.format(model=self.model, endpoint=self.endpoint) for kind, say in self.advice.items()
        }
        return Border(self.name, self.address.endpoint, self.words, advice, keys, tuple(prompts))


def telling_tool(request: Request) -> Request:
    """The request with its tool in words: a server that is given a schema keeps to it, but its model never sees it."""
    if request.tool is None:
        return request
    words = (
        f"{request.tool.name}: {request.tool.description} Answer with nothing but its arguments: "
        f"one JSON object that fits this JSON Schema:\n{json.dumps(dict(request.tool.schema))}"
    )
    turns = list(request.messages)
    if turns and turns[0]["role"] == "system":
        words = f"{turns.pop(0)['content']}\n\n{words}"
    return replace(request, messages=[{"role": "system", "content": words}, *turns])
