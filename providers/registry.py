"""Providers by name. A provider's module is imported when it is first asked for, so that a name costs nothing."""

from __future__ import annotations

import importlib
from functools import cache

from providers.base import Provider
from providers.config import Config
from providers.errors import NotReady

_MODULES = {
    "ollama": "providers.ollama:OllamaProvider",
    "mlx": "providers.mlx:MlxProvider",
    "anthropic": "providers.anthropic:AnthropicProvider",
    "openai": "providers.openai:OpenAIProvider",
    "scaffold": "providers.scaffold:ScaffoldProvider",
    "simulated": "providers.simulated:SimulatedProvider",
}


def available() -> tuple[str, ...]:
    """Names that `create` knows, in the order of the table."""
    return tuple(_MODULES)


def create(name: str, model: str | None = None, config: Config | None = None) -> Provider:
    """Make the provider of that name.

    Raises:
        NotReady: There is no such provider, or the provider says what it is missing.
    """
    if name not in _MODULES:
        raise NotReady(f"there is no such provider; use one of {', '.join(_MODULES)}", name)
    module, _, attribute = _MODULES[name].partition(":")
    factory: type[Provider] = getattr(importlib.import_module(module), attribute)
    return factory(model, config)


@cache
def shared(name: str, model: str | None = None, config: Config | None = None) -> Provider:
    """The one instance of this process for these: connections and loaded models are shared."""
    return create(name, model, config)
