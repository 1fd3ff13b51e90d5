"""One attempt at a provider: admitted, under the provider's circuit, booked and told of when it has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pybreaker import CircuitBreaker, CircuitBreakerStorage

from orchestrator.admission import Admission, BudgetExceeded, Ended, Grant, Holder, Outcome
from orchestrator.completions import Entry
from orchestrator.events import Act
from orchestrator.retry import asked_to_wait
from providers import Completion, Provider, ProviderError, Request, Usage
from providers.catalog import Price
from providers.errors import Cancelled, RateLimited, Retryable

TOO_LITTLE_LEFT = "the budget is used up: what was left of it did not allow a whole answer"


@dataclass(frozen=True)
class Attempt:
    """What one call consists of. `about` is in both of its events; `news` is told before the first.

    `key` is that of the call's own request: a re-ask has another than its question.
    """

    admission: Admission
    holder: Holder
    provider: Provider
    about: Mapping[str, Any]
    news: Sequence[Act]
    key: str

    def make(self, request: Request) -> Completion:
        """Call the provider once.

        Raises:
            MustWait: The call may not begin yet.
            BudgetExceeded: The budget has not enough left for it, or not enough for a whole answer.
            ProviderError: The provider did not answer.
        """
        told = Act("llm.request", {**self.about, "messages": len(request.messages)})
        grant = self.admission.admit(self.holder, self.provider, request, [*self.news, told])
        if grant.short:
            request = replace(request, options={**request.options, "max_tokens": grant.most_out})
        completion = self._guarded(grant, request)
        if _too_short(grant, completion):
            raise BudgetExceeded(TOO_LITTLE_LEFT)
        return completion

    def _guarded(self, grant: Grant, request: Request) -> Completion:
        call = _Call(self, grant)
        breaker = CircuitBreaker(
            fail_max=self.admission.threshold,
            reset_timeout=self.admission.cooldown_s,
            exclude=[lambda error: _outcome(error) != "failure"],
            state_storage=call,
            throw_new_error_on_trip=False,
        )
        with breaker.calling():
            try:
                answer = self.provider.complete(request)
            except BaseException as error:
                call.error = error
                raise
            call.completion = answer = replace(answer, text=answer.text.encode(errors="replace").decode())
        return answer

    def cost(self, completion: Completion | None, error: BaseException | None) -> float | None:
        """USD of a call; None where nobody knows. Vendors charge nothing for calls that they turn down."""
        price = self.price(completion)
        if completion is None:
            return 0.0 if price and (_turned_down(error) or price.output == 0) else None
        return price.cost(completion.usage) if price else None

    def price(self, completion: Completion | None) -> Price | None:
        """The price of the model that was asked, or else of the one that answered."""
        catalog = self.provider.config.catalog
        models = (self.provider.model, completion.model if completion else None)
        return next((found for one in models if (found := catalog.price(self.provider.name, one))), None)


class _Call(CircuitBreakerStorage):
    """A call as its circuit breaker sees it: the fleet's circuit as it was when the call was admitted.

    pybreaker reports the end of the call here as a failure or a success; that is when it is booked, in one act with
    everything else that ends with it. What pybreaker concludes about the circuit is then put to the whole fleet.
    """

    def __init__(self, attempt: Attempt, grant: Grant) -> None:
        super().__init__("fleet")
        self.completion: Completion | None = None
        self.error: BaseException | None = None
        self._attempt = attempt
        self._grant = grant
        self._state = grant.state
        self._failures: int | None = None
        self._successes = 0
        self._started = time.monotonic()

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state
        if _outcome(self.error) != "neutral":
            self._attempt.admission.turn(self._attempt.holder, self._attempt.provider, self._grant, state)

    @property
    def counter(self) -> int:
        return self._grant.failures if self._failures is None else self._failures

    def increment_counter(self) -> None:
        self._book()

    def reset_counter(self) -> None:
        self._book()

    @property
    def success_counter(self) -> int:
        return self._successes

    def increment_success_counter(self) -> None:
        self._successes += 1

    def reset_success_counter(self) -> None:
        self._successes = 0

    @property
    def opened_at(self) -> datetime | None:
        return None  # an open circuit admits nobody

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        """Redis has the only clock."""

    def _book(self) -> None:
        """Book the end of the call, the first time."""
        if self._failures is not None:
            return
        attempt, completion, took_s = self._attempt, self.completion, time.monotonic() - self._started
        usage, usd = completion.usage if completion else None, attempt.cost(completion, self.error)
        source = completion or (self.error if isinstance(self.error, ProviderError) else None)
        # What a vendor asks for in so many words says more than when its allowance will be whole again.
        asked = asked_to_wait(self.error) if isinstance(self.error, RateLimited) else None
        about = {**attempt.about, **_told(completion, self.error), "duration_s": round(took_s, 6)}
        about |= {
            "tokens_in": usage.tokens_in if usage else None,
            "tokens_out": usage.tokens_out if usage else None,
            "cost_usd": usd,
        }
        if source and source.request_id:
            about["request_id"] = source.request_id
        ended = Ended(
            outcome=_outcome(self.error),
            took_s=took_s,
            **self._booked(completion, usd),
            blocked_s=asked,
            allowance=source.allowance if source and not asked else None,
            news=[Act("llm.response", about, "WARN" if self.error else "INFO")],
            answer=self._kept(completion) if completion else None,
        )
        if completion and _too_short(self._grant, completion):
            over = Act("budget.exceeded", {"reason": TOO_LITTLE_LEFT}, "ERROR")
            ended = replace(ended, news=[*ended.news, over])
        self._failures = attempt.admission.settle(attempt.holder, attempt.provider, self._grant, ended)

    def _kept(self, completion: Completion) -> Entry | None:
        """The answer as it is kept for further runs, where it was not free and instant to make."""
        attempt, grant = self._attempt, self._grant
        worth = attempt.provider.endpoint is not None and not _too_short(grant, completion)
        return Entry.of(attempt.key, attempt.provider.name, completion) if worth else None

    def _booked(self, completion: Completion | None, usd: float | None) -> dict[str, Any]:
        """What a call takes from the budget: where its vendor did not say, all that was set aside for it.

        That goes for an answer without counts, and for one that broke off: nobody knows what it cost.
        """
        if completion is None and _turned_down(self.error):
            return {"usd": usd}
        usage, grant = completion.usage if completion else Usage(), self._grant
        price = self._attempt.price(completion)
        tokens_in = grant.reserved.tokens_in if usage.tokens_in is None else usage.tokens_in
        tokens_out = grant.most_out if usage.tokens_out is None else usage.tokens_out
        if usd is None and price:
            usd = price.cost(Usage(tokens_in, tokens_out))
        return {"tokens": (tokens_in or 0) + tokens_out, "usd": usd}


def _too_short(grant: Grant, completion: Completion) -> bool:
    return grant.short and completion.finish_reason == "length"


def _turned_down(error: BaseException | None) -> bool:
    """Whether it is certain that nobody charges for a call that failed: it was refused, or never reached its vendor."""
    if not isinstance(error, ProviderError) or isinstance(error, Cancelled):
        return False
    refused = error.status is not None and error.status != 200
    return refused or not error.reached or not isinstance(error, Retryable)


def _outcome(error: BaseException | None) -> Outcome:
    """What the end of a call says of its provider: a limit or a refusal comes from one that lives."""
    if error is None:
        return "success"
    if isinstance(error, ProviderError) and error.kind != "cancelled":
        dead = isinstance(error, Retryable) and not isinstance(error, RateLimited)
        return "failure" if dead else "success"
    return "neutral"


def _told(completion: Completion | None, error: BaseException | None) -> dict[str, Any]:
    if completion is None:
        kind = error.kind if isinstance(error, ProviderError) else "internal"
        return {"success": False, "finish_reason": "error", "error": kind}
    return {"success": True, "finish_reason": completion.finish_reason, "model": completion.model}
