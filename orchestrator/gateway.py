"""The one way from a step to a provider: cache, one attempt at the provider, the next provider, events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from orchestrator.cache import Cache, Entry, request_key
from orchestrator.events import Act
from providers import Completion, Message, Provider, ProviderError, Request, Tool, arguments, ask
from providers.errors import NotReady, Unavailable

Answer = TypeVar("Answer")

FREE_PROVIDERS = frozenset({"scaffold", "simulated", "ollama", "mlx"})
"""They run on the user's own machines: a call costs 0. What any other costs is unknown until it has a price."""


Emit = Callable[..., None]
"""Adds `Act`s to the events of the step that asks."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and how: what of a step the gateway needs to know.

    `version` is the hash of the step's own code and prompts. `cancelled` is set when nobody wants the answer.
    """

    kind: str
    version: str
    providers: Sequence[Provider]
    options: Mapping[str, Any]
    emit: Emit
    cancelled: threading.Event


class Gateway:
    """Asks models on behalf of one step."""

    def __init__(self, cache: Cache, asker: Asker) -> None:
        self._cache = cache
        self._asker = asker

    def generate(self, messages: Sequence[Message], read: Callable[[str], Answer]) -> Answer:
        """Ask for text; `read` makes an answer of it, its ValueError leads to a re-ask."""
        return self._first_ready(messages, None, lambda completion: read(completion.text))

    def tool_call(
        self, messages: Sequence[Message], tool: Tool, read: Callable[[dict[str, Any]], Answer]
    ) -> Answer:
        """Ask for arguments that fit the tool's schema and that `read` takes."""
        return self._first_ready(messages, tool, lambda completion: read(arguments(completion, tool)))

    def _first_ready(
        self, messages: Sequence[Message], tool: Tool | None, read: Callable[[Completion], Answer]
    ) -> Answer:
        request = Request(messages, tool, self._asker.options, self._asker.cancelled)
        *others, last = self._asker.providers
        for provider, following in zip(others, self._asker.providers[1:], strict=True):
            try:
                return self._cached(provider, request, read)
            except Unavailable as error:
                about = {"from": provider.name, "to": following.name, "reason": error.kind}
                self._asker.emit(Act("provider.fallback", about, "WARN"))
        return self._cached(last, request, read)

    def _cached(self, provider: Provider, request: Request, read: Callable[[Completion], Answer]) -> Answer:
        """Answer from the cache, or from the provider into the cache: only an answer that could be read is kept.

        It is kept under the question as it was first asked, so that a re-ask is not repeated either.
        """
        asker = self._asker
        key = request_key(provider.name, provider.model, request, kind=asker.kind, version=asker.version)
        about = {"key": key, "provider": provider.name, "model": provider.model}
        if hit := self._cache.get(key):
            try:
                answer = read(hit.entry.completion())
            except ValueError:
                pass  # what was good for an older reader is asked for anew
            else:
                asker.emit(Act("cache.hit", {**about, "model": hit.entry.model, "layer": hit.layer}))
                return answer
        news = [Act("cache.miss", about)]
        completion, answer = ask(lambda asked: self._call(provider, asked, key, news), request, read)
        self._cache.put(Entry.of(key, provider.name, completion))
        return answer

    def _call(self, provider: Provider, request: Request, key: str, news: list[Act]) -> Completion:
        """One attempt at the provider, between its two events; what is news goes with the first."""
        about = {"key": key, "provider": provider.name, "model": provider.model}
        self._asker.emit(*news, Act("llm.request", {**about, "messages": len(request.messages)}))
        news.clear()
        start = time.monotonic()
        try:
            completion = provider.complete(request)
        except Exception as error:
            kind = error.kind if isinstance(error, ProviderError) else "internal"
            ended = {"success": False, "finish_reason": "error", "error": kind}
            self._asker.emit(Act("llm.response", {**about, **ended, **_figures(provider, start)}, "WARN"))
            raise
        completion = replace(completion, text=completion.text.encode(errors="replace").decode())
        ended = {"success": True, "finish_reason": completion.finish_reason, "model": completion.model}
        self._asker.emit(Act("llm.response", {**about, **ended, **_figures(provider, start, completion)}))
        return completion


def ready_providers(
    names: Sequence[str], model: str | None, create: Callable[[str, str | None], Provider]
) -> list[Provider]:
    """Make the providers of a fallback list that are ready, in order; the model is the first one's.

    Raises:
        NotReady: None of them is; the message is the first one's.
    """
    ready, errors = [], []
    for name in names:
        try:
            ready.append(create(name, model if name == names[0] else None))
        except NotReady as error:
            errors.append(error)
    if not ready:
        raise errors[0]
    return ready


def _figures(provider: Provider, start: float, completion: Completion | None = None) -> dict[str, Any]:
    return {
        "duration_s": round(time.monotonic() - start, 6),
        "tokens_in": completion.usage.tokens_in if completion else None,
        "tokens_out": completion.usage.tokens_out if completion else None,
        "cost_usd": 0.0 if provider.name in FREE_PROVIDERS else None,
    }
