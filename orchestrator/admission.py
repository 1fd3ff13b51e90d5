"""Who may call a provider now: budget, limits, circuit and single-flight, decided in Redis for the whole fleet."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.completions import Entry
from orchestrator.events import Act
from orchestrator.scripts import Scripts, packed
from providers import Allowance, Provider, Request, Usage
from providers.errors import Cancelled

LEAST_ANSWER = 64
"""Tokens: an answer is not asked for when the budget leaves less than this of it."""

Outcome = Literal["success", "failure", "neutral"]
"""What a call says of its provider; one that was cancelled says nothing."""


class MustWait(Exception):
    """The call may not begin yet."""

    def __init__(self, what: Literal["budget", "limit", "circuit"], reason: str, seconds: float) -> None:
        super().__init__(what, reason, seconds)
        self.what = what
        self.reason = reason
        self.seconds = seconds


class BudgetExceeded(Exception):
    """The job's budget does not have enough left for the call, and never will."""

    kind = "budget"


@dataclass(frozen=True, slots=True)
class Holder:
    """The run of a step on whose behalf a call is made; what the call holds is given back with the step."""

    job_id: str
    step: str
    token: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to call: the circuit's state as it was then, and what was reserved (tokens)."""

    call: str
    state: str
    epoch: int
    failures: int
    most_out: int
    second: int
    reserved: Usage

    @property
    def short(self) -> bool:
        """Whether the budget leaves less for the answer than was asked for."""
        return self.most_out < (self.reserved.tokens_out or 0)


@dataclass(frozen=True, slots=True)
class Ended:
    """What is known of a call that has ended. Tokens and USD are None where nobody knows them.

    The `answer` is kept for further runs of the step, should this one not come to its end.
    """

    outcome: Outcome
    took_s: float
    tokens: int | None = None
    usd: float | None = None
    blocked_s: float | None = None
    allowance: Allowance | None = None
    news: Sequence[Act] = ()
    answer: Entry | None = None


@dataclass(frozen=True)
class Admission:
    """The fleet's books of calls to providers. Safe to share between threads."""

    scripts: Scripts
    threshold: int
    cooldown_s: float

    def admit(self, holder: Holder, provider: Provider, request: Request, news: Sequence[Act]) -> Grant:
        """Let a call begin and tell its news.

        Raises:
            MustWait: Not yet.
            BudgetExceeded: Never.
            Cancelled: The step is no longer the holder's.
        """
        call, estimate = f"{holder.token}.{secrets.token_hex(4)}", provider.estimate(request)
        asked = {
            "step": holder.step,
            "token": holder.token,
            "call": call,
            "budget": _budget(provider, estimate),
            "limit": {"name": limit_name(provider), **_limits(provider)},
            "circuit": self._circuit(provider),
            "news": list(map(packed, news)),
        }
        verdict, found = self._call("admit", holder, _known(asked))
        match verdict:
            case "go":
                state, epoch, failures, out, second = found
                return Grant(call, state, epoch, failures, out, second, estimate)
            case "wait":
                raise MustWait(found[0], found[1], found[2] / 1000)
            case "over":
                raise BudgetExceeded(found[0])
            case _:
                raise Cancelled("the step is no longer this worker's", provider.name)

    def settle(self, holder: Holder, provider: Provider, grant: Grant, ended: Ended) -> int:
        """Book a call that has ended, and tell its news; returns how often the provider has failed in a row."""
        allowance = ended.allowance
        told = {
            "step": holder.step,
            "token": holder.token,
            "call": grant.call,
            "outcome": ended.outcome,
            "circuit": (circuit := self._circuit(provider)) and {**circuit, "epoch": grant.epoch},
            "limit": limit_name(provider),
            "second": str(grant.second),
            "reserved_tokens": (grant.reserved.tokens_in or 0) + grant.most_out,
            "tokens": ended.tokens,
            "usd": ended.usd,
            "took_ms": int(ended.took_s * 1000),
            "blocked_ms": None if ended.blocked_s is None else int(ended.blocked_s * 1000),
            "allowance": allowance
            and _known({name: getattr(allowance, name) for name in Allowance.__dataclass_fields__}),
            "news": list(map(packed, ended.news)),
            "answer": ended.answer and (ended.answer.key, ended.answer.model_dump_json()),
        }
        return int(self._call("settle", holder, _known(told))[1][0])

    def turn(self, holder: Holder, provider: Provider, grant: Grant, state: str) -> None:
        """Open or close the provider's circuit, unless somebody else has since."""
        if circuit := self._circuit(provider):
            about = json.dumps({**circuit["about"], "cooldown_s": self.cooldown_s})
            args = (holder.step, circuit["name"], state, grant.epoch, circuit["cooldown_ms"], about)
            self.scripts.call("circuit", holder.job_id, *args)

    def lead(self, holder: Holder, key: str) -> Literal["ask", "look", "wait"]:
        """Become the one who asks this question (and ask, or first look into the cache), or wait for who is.

        Cancelled when the step is no longer the holder's.
        """
        verdict, found = self.scripts.call("flight", holder.job_id, holder.step, holder.token, key, "lead")
        if verdict == "stale":
            raise Cancelled("the step is no longer this worker's")
        if verdict != "lead":
            return "wait"
        return "look" if found[0] else "ask"

    def land(self, holder: Holder, key: str) -> None:
        """Give the lead back."""
        self.scripts.call("flight", holder.job_id, holder.step, holder.token, key, "land")

    def _call(self, name: str, holder: Holder, document: dict[str, Any]) -> tuple[str, list[Any]]:
        return self.scripts.call(name, holder.job_id, json.dumps(document))

    def _circuit(self, provider: Provider) -> dict[str, Any] | None:
        if provider.endpoint is None:
            return None
        return {
            "name": circuit_name(provider),
            "threshold": self.threshold,
            "cooldown_ms": int(self.cooldown_s * 1000),
            "about": {"provider": provider.name, "endpoint": provider.endpoint},
        }


def circuit_name(provider: Provider) -> str:
    """Providers with the same name of a circuit fail together."""
    same = provider.endpoint in (None, provider.name)
    return provider.name if same else f"{provider.name} at {provider.endpoint}"


def limit_name(provider: Provider) -> str:
    """What limits are counted by: one model of a provider does not use up another's."""
    return f"{provider.name}/{provider.model or ''}"


def _budget(provider: Provider, estimate: Usage) -> dict[str, Any]:
    price = provider.config.catalog.price(provider.name, provider.model)
    tokens_in, tokens_out = estimate.tokens_in or 0, estimate.tokens_out or 0
    usd = [price.cost(Usage(tokens_in, out)) or 0.0 for out in (0, 1000)] if price else None
    return _known(
        {
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "least_out": min(tokens_out, LEAST_ANSWER) if provider.keeps_to_max_tokens else tokens_out,
            "usd_in": usd and usd[0],
            "usd_per_token_out": usd and (usd[1] - usd[0]) / 1000,
        }
    )


def _limits(provider: Provider) -> dict[str, int]:
    return provider.config.catalog.limits(provider.name, provider.model).model_dump(exclude_none=True)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is None, which Lua would take for something."""
    return {name: value for name, value in values.items() if value is not None}
