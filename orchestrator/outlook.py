"""What can be asked now, and what cannot and why: providers as this machine and the fleet see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from orchestrator.admission import circuit_name, limit_name
from orchestrator.fleet import Circuit, circuit, limited_until, running
from orchestrator.settings import Settings
from providers import Provider, ProviderError
from providers.config import Config
from providers.registry import available, create


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A provider: whether it is ready here, or what it is missing; `circuit` is None where no Redis was asked.

    `cost` is for people; `limits` has requests_per_minute, tokens_per_minute, concurrency where they are set, and with
    a Redis how many calls are `running`, and `until` when the vendor has asked to be left alone.
    """

    name: str
    ready: bool
    reason: str | None
    model: str | None
    endpoint: str | None
    cost: str
    limits: dict[str, Any]
    circuit: Circuit | None


def view_providers(settings: Settings, client: redis.Redis | None) -> list[ProviderView]:
    """Look at every provider. Servers of one's own are asked whether they answer, paid ones are not."""
    config = settings.provider_config
    return [_view(name, _model(name, settings), config, client) for name in available()]


def _model(name: str, settings: Settings) -> str | None:
    """The model that settings name, where they name it for this provider."""
    return settings.provider_model if settings.provider == name else None


def _view(name: str, model: str | None, config: Config, client: redis.Redis | None) -> ProviderView:
    reason, provider = None, None
    try:
        provider = create(name, model, config)
        model = model or provider.preferred_model()
        provider = create(name, model, config)
        provider.check()
    except ProviderError as error:
        reason = error.message
    return ProviderView(
        name=name,
        ready=reason is None,
        reason=reason,
        model=model or config.catalog.default_model(name),
        endpoint=provider.endpoint if provider else None,
        cost=_cost(config, name, model or config.catalog.default_model(name)),
        limits=_limits(provider, client) if provider else {},
        circuit=circuit(client, circuit_name(provider))
        if provider and provider.endpoint and client
        else None,
    )


def _limits(provider: Provider, client: redis.Redis | None) -> dict[str, Any]:
    limits: dict[str, Any] = provider.config.catalog.limits(provider.name, provider.model).model_dump(
        exclude_none=True
    )
    if client and limits:
        limits["running"] = running(client, limit_name(provider))
    if client and (until := limited_until(client, limit_name(provider))):
        limits["until"] = until
    return limits


def _cost(config: Config, name: str, model: str | None) -> str:
    price = config.catalog.price(name, model)
    if price is None:
        return "not known"
    return f"{price.input:g}/{price.output:g} USD per million" if price.input or price.output else "free"
