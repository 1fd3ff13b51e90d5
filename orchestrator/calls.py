"""The calls that one question leads to: tried again when that may help, continued when an answer was cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from orchestrator.admission import Admission, Holder, MustWait
from orchestrator.attempt import Attempt
from orchestrator.completions import request_key
from orchestrator.events import Act
from orchestrator.retry import INLINE_S, Backoff, Parked, Tries, spread
from providers import Completion, Message, Provider, ProviderError, Request, Usage
from providers.errors import Cancelled, Retryable

CONTINUATIONS = 3
"""How often an answer that ended at the token limit is continued."""
CONTINUE = (
    "Your answer was cut off. Go on exactly where it stopped, in the middle of the line or word if need be. "
    "Repeat nothing, and add no remark."
)
Emit = Callable[..., None]
"""Adds `Act`s to the events of the step that asks."""


@dataclass(slots=True)
class Asker:
    """Who asks, and how: what of a step the gateway needs to know.

    `version` is the hash of the step's own code and prompts. `cancelled` is set when nobody wants the answer. `retries`
    are the further tries after a first failure; `tries` says what was used of them for the question that is asked now,
    which earlier runs of the step may have begun; `again` that there were such runs.
    """

    holder: Holder
    kind: str
    version: str
    providers: Sequence[Provider]
    options: Mapping[str, Any]
    emit: Emit
    cancelled: threading.Event
    retries: int
    tries: Tries | None = None
    again: bool = False


def pause(asker: Asker, seconds: float) -> None:
    """Wait, unless the step shall end."""
    if asker.cancelled.wait(seconds):
        raise Cancelled("the call was cancelled")


@dataclass(frozen=True)
class Calls:
    """The calls of one question to one provider. `news` is told with the first of them.

    With `may_wait` an open circuit is waited for; without, it is an error, for another provider to answer. `paid` finds
    the answer to a single call that an earlier run of the step has paid for, by the key of its request.
    """

    admission: Admission
    asker: Asker
    provider: Provider
    about: Mapping[str, Any]
    news: list[Act]
    may_wait: bool
    paid: Callable[[str], Completion | None]

    def whole(self, request: Request) -> Completion:
        """Ask, and have an answer in words that was cut off at the token limit continued."""
        completion = self._persistent(request)
        for _ in range(CONTINUATIONS):
            if completion.finish_reason != "length" or request.tool or not completion.text.strip():
                break
            so_far: list[Message] = [
                {"role": "assistant", "content": completion.text},
                {"role": "user", "content": CONTINUE},
            ]
            more = self._persistent(replace(request, messages=[*request.messages, *so_far]))
            completion = replace(
                more, text=completion.text + more.text, usage=_sum(completion.usage, more.usage)
            )
        return completion

    def _persistent(self, request: Request) -> Completion:
        """Ask again while that may help; Parked when it is not worth holding a worker until then."""
        key = self._key(request)
        if self.asker.again and (paid := self.paid(key)):
            self.asker.emit(
                *self.news, Act("cache.hit", {**self.about, "model": paid.model, "layer": "step"})
            )
            self.news.clear()
            return paid
        tries = self.asker.tries
        backoff = Backoff(
            self.asker.retries, tries if tries and tries.provider == self.provider.name else None
        )

        def before_sleep(state: RetryCallState) -> None:
            seconds = state.next_action.sleep if state.next_action else 0.0
            self.asker.tries = backoff.tries(self.provider.name, state)
            reason = str(state.outcome.exception()) if state.outcome else ""
            if seconds > INLINE_S:
                raise Parked(reason, seconds, self.asker.tries)
            about = {
                "reason": reason,
                "wait_ms": int(seconds * 1000),
                "tries": self.asker.tries.failed,
                "inline": True,
            }
            self.asker.emit(Act("step.retrying", about, "WARN"))

        persistent = Retrying(
            retry=retry_if_exception_type(Retryable),
            stop=backoff.stop,
            wait=backoff.wait,
            before_sleep=before_sleep,
            sleep=lambda seconds: pause(self.asker, seconds),
            reraise=True,
        )
        completion = persistent(self._admitted, request, key)
        self.asker.tries = None
        return completion

    def _key(self, request: Request) -> str:
        provider, asker = self.provider, self.asker
        return request_key(provider.source, provider.model, request, kind=asker.kind, version=asker.version)

    def _admitted(self, request: Request, key: str) -> Completion:
        """Make one attempt, as soon as it may begin; Parked when that is not soon."""
        waited_s = 0.0
        attempt = Attempt(self.admission, self.asker.holder, self.provider, self.about, tuple(self.news), key)
        while True:
            try:
                completion = attempt.make(request)
            except MustWait as wait:
                if wait.what == "circuit" and not self.may_wait:
                    raise
                if waited_s + wait.seconds > INLINE_S:
                    raise Parked(wait.reason, wait.seconds * spread(), self.asker.tries) from wait
                pause(self.asker, wait.seconds)
                waited_s += wait.seconds
            except ProviderError:
                self.news.clear()
                raise
            else:
                self.news.clear()
                return completion


def _sum(one: Usage, other: Usage) -> Usage:
    def both(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else a + b

    return Usage(
        both(one.tokens_in, other.tokens_in),
        both(one.tokens_out, other.tokens_out),
        one.cached_in + other.cached_in,
        one.cache_written + other.cache_written,
    )
