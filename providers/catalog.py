"""What is known of vendors' models: default, price, limits. It is data: `models.toml`, and the user's own over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from providers.errors import NotReady
from providers.types import Usage

BUILT_IN = Path(__file__).with_name("models.toml")
PER_MILLION = 1_000_000


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rates(_Value):
    """USD for a million tokens. Where a vendor's own prompt cache has no price here, it costs what input costs."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)
    cache_write: float | None = Field(default=None, ge=0)


class LongPrompt(Rates):
    """The rates of calls whose prompt has more tokens than `above`."""

    above: int = Field(ge=1)


class Price(Rates):
    """The rates of a model."""

    long_prompt: LongPrompt | None = None

    def cost(self, usage: Usage) -> float | None:
        """USD for one call; None when the vendor did not say how many tokens it took."""
        if usage.tokens_in is None or usage.tokens_out is None:
            return None
        rates: Rates = self
        if self.long_prompt and usage.tokens_in > self.long_prompt.above:
            rates = self.long_prompt
        plain = max(0, usage.tokens_in - usage.cached_in - usage.cache_written)
        read = rates.input if rates.cached_input is None else rates.cached_input
        written = rates.input if rates.cache_write is None else rates.cache_write
        parts = plain * rates.input + usage.cached_in * read + usage.cache_written * written
        return (parts + usage.tokens_out * rates.output) / PER_MILLION


class Limits(_Value):
    """What may be asked of one model by the whole fleet; None is no limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)


class _Model(_Value):
    usd_per_million_tokens: Price | None = None
    limits: Limits | None = None


class _Vendor(_Value):
    default_model: str | None = None
    max_tokens: int = Field(default=8192, ge=1)
    free: bool = False
    limits: Limits = Limits()
    models: dict[str, _Model] = Field(default_factory=dict)
    date: str | None = None
    source: str | None = None


_Vendors = RootModel[dict[str, _Vendor]]


@dataclass(frozen=True)
class Catalog:
    """What is known of every vendor's models."""

    _vendors: Mapping[str, _Vendor] = field(default_factory=dict)

    @property
    def providers(self) -> frozenset[str]:
        """The providers of which something is known."""
        return frozenset(self._vendors)

    def default_model(self, provider: str) -> str | None:
        """The model that is asked when none is named."""
        return self._vendor(provider).default_model

    def knows(self, provider: str, model: str) -> bool:
        """Whether a model is listed as that provider's."""
        return model in self._vendor(provider).models

    def max_tokens(self, provider: str) -> int:
        """How long an answer may be when nobody says how long."""
        return self._vendor(provider).max_tokens

    def price(self, provider: str, model: str | None) -> Price | None:
        """The price of a model; None where nobody knows it. What runs on one's own machines costs nothing."""
        vendor = self._vendor(provider)
        if vendor.free:
            return Price(input=0, output=0)
        known = vendor.models.get(model or "")
        return known.usd_per_million_tokens if known else None

    def limits(self, provider: str, model: str | None) -> Limits:
        """The limits of a model: its own, else its vendor's."""
        vendor = self._vendor(provider)
        known = vendor.models.get(model or "")
        return known.limits if known and known.limits else vendor.limits

    def _vendor(self, provider: str) -> _Vendor:
        return self._vendors.get(provider, _NOTHING_KNOWN)


_NOTHING_KNOWN = _Vendor()


@cache
def load_catalog(own: Path | None = None) -> Catalog:
    """Read the built-in data, and the user's file of the same form over it, key by key.

    Raises:
        NotReady: The user's file is not there or not valid.
    """
    tables = tomllib.loads(BUILT_IN.read_text())
    if own is not None:
        try:
            tables = _over(tables, tomllib.loads(own.read_text()))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise NotReady(f"the models file {own} cannot be read: {error}") from error
    try:
        return Catalog(_Vendors.model_validate(tables).root)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NotReady(f"the models file {own}: {where}: {first['msg']} (got {first['input']!r})") from error


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged
