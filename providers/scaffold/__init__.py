"""A deterministic generator in a provider's place: small FastAPI projects by rules and templates, no model."""

from providers.scaffold.provider import ScaffoldProvider as ScaffoldProvider
