"""The one way from a step to a provider.

For every question: the cache, and one asker at a time in the whole fleet → for every try: the budget, the model's
limits, the provider's circuit, one attempt → a retry, when that may help → the next provider, when this one will not
answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeVar

from orchestrator.admission import Admission, MustWait
from orchestrator.cache import StepCache
from orchestrator.calls import Asker, Calls, pause
from orchestrator.completions import Entry, request_key
from orchestrator.events import Act
from orchestrator.retry import INLINE_S, Parked, Tries
from providers import Completion, Message, Provider, ProviderError, Request, Tool, arguments, ask
from providers.errors import NotReady, Retryable, Unavailable

Answer = TypeVar("Answer")

SOONEST_LOOK_S, LATEST_LOOK_S = 0.03, 0.4
"""How soon a step that waits for another's answer looks again whether it is there: later and later."""
OTHERS_ANSWER_S = 5.0
"""For how long a step is parked at most that waits for another's answer: it is due when the answer is there."""


class Gateway:
    """Asks models on behalf of one step.

    Its methods raise ProviderError when no provider answers, BudgetExceeded, and Parked when the step must wait long.
    """

    def __init__(self, cache: StepCache, admission: Admission, asker: Asker) -> None:
        self._cache = cache
        self._admission = admission
        self._asker = asker

    def generate(self, messages: Sequence[Message], read: Callable[[str], Answer]) -> Answer:
        """Ask for text; `read` makes an answer of it, its ValueError leads to a re-ask."""
        return self._first_answer(messages, None, lambda completion: read(completion.text))

    def tool_call(
        self, messages: Sequence[Message], tool: Tool, read: Callable[[dict[str, Any]], Answer]
    ) -> Answer:
        """Ask for arguments that fit the tool's schema and that `read` takes."""
        return self._first_answer(messages, tool, lambda completion: read(arguments(completion, tool)))

    # --- providers in turn ----------------------------------------------------------------------------------------

    def _first_answer(
        self, messages: Sequence[Message], tool: Tool | None, read: Callable[[Completion], Answer]
    ) -> Answer:
        request = Request(messages, tool, self._asker.options, self._asker.cancelled)
        providers = self._left()
        for provider, following in pairwise(providers):
            try:
                return self._answer(provider, request, read, may_wait=False)
            except (Unavailable, Retryable, MustWait) as error:
                reason = error.kind if isinstance(error, ProviderError) else "circuit_open"
                if isinstance(error, ProviderError):
                    self._asker.tries = Tries(provider=following.name, failed=0, since=time.time())
                about = {"from": provider.name, "to": following.name, "reason": reason}
                self._asker.emit(Act("provider.fallback", about, "WARN"))
        return self._answer(providers[-1], request, read, may_wait=True)

    def _left(self) -> Sequence[Provider]:
        """The providers that an earlier run of the step had not given up when it was parked."""
        providers, tries = self._asker.providers, self._asker.tries
        at = [n for n, one in enumerate(providers) if tries and one.name == tries.provider]
        return providers[at[0] :] if at else providers

    # --- the cache ------------------------------------------------------------------------------------------------

    def _answer(
        self, provider: Provider, request: Request, read: Callable[[Completion], Answer], *, may_wait: bool
    ) -> Answer:
        """Answer from the cache, or from the provider into the cache: only an answer that could be read is kept.

        It is kept under the question as it was first asked, so that a re-ask is not repeated either.
        """
        asker = self._asker
        key = request_key(provider.source, provider.model, request, kind=asker.kind, version=asker.version)
        about = {"key": key, "provider": provider.name, "model": provider.model}
        alone = provider.endpoint is None or not self._cache.shares
        turn = _Turn(self._admission, asker, key, alone=alone)
        try:
            while not (kept := self._kept(key, about, read)) and not turn.ours:
                if turn.take_or_wait() == "ask":
                    break
            if kept:
                return kept[0]
            calls = Calls(
                self._admission,
                asker,
                provider,
                about,
                [Act("cache.miss", about)],
                may_wait=may_wait,
                paid=self._cache.paid,
            )
            completion, answer = ask(calls.whole, request, read)
            self._cache.put(Entry.of(key, provider.name, completion))
            return answer
        finally:
            turn.give_back()

    def _kept(
        self, key: str, about: dict[str, Any], read: Callable[[Completion], Answer]
    ) -> tuple[Answer] | None:
        """The answer that the cache has."""
        hit = self._cache.get(key)
        if not hit:
            return None
        try:
            answer = read(hit.entry.completion())
        except ValueError:
            return None  # what was good for an older reader is asked for anew
        self._asker.emit(Act("cache.hit", {**about, "model": hit.entry.model, "layer": hit.layer}))
        return (answer,)


class _Turn:
    """One step's turn to ask a question that other steps of the fleet may be asking, too.

    Nobody waits for a turn that nobody has: it is given back with the step's token, however the step ends.
    """

    def __init__(self, admission: Admission, asker: Asker, key: str, *, alone: bool) -> None:
        self._admission = admission
        self._asker = asker
        self._key = key
        self._waited_s = 0.0
        self._held = False
        self.ours = alone

    def take_or_wait(self) -> Literal["ask", "look", "wait"]:
        """Take the turn if it is free, else wait a little for who has it; Parked when that takes long."""
        verdict = self._admission.lead(self._asker.holder, self._key)
        if verdict != "wait":
            self.ours = self._held = True
            return verdict
        if self._waited_s > INLINE_S:
            raise Parked("another step is asking the same question", OTHERS_ANSWER_S, self._asker.tries)
        seconds = min(max(self._waited_s, SOONEST_LOOK_S), LATEST_LOOK_S)
        pause(self._asker, seconds)
        self._waited_s += seconds
        return "wait"

    def give_back(self) -> None:
        """Let another have it."""
        if self._held:
            self._admission.land(self._asker.holder, self._key)


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
