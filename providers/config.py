"""What providers are told by their owner: keys, addresses, patience. They read no environment themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from providers.catalog import Catalog, load_catalog


@dataclass(frozen=True, slots=True)
class Config:
    """Keys and addresses of every vendor; hashable, so that providers can be shared by it.

    `timeout_s` is how long a provider may be silent: to accept a connection, to take a request, to send the next part
    of its answer. None as an address means the vendor's own. `models_file` goes over the built-in prices and limits.
    """

    timeout_s: float = 120.0
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: str | None = None
    ollama_host: str | None = None
    hf_home: Path | None = None
    models_file: Path | None = None

    @property
    def catalog(self) -> Catalog:
        """Prices, limits and default models."""
        return load_catalog(self.models_file)
