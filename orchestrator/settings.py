"""Settings: the real environment over `.env` over defaults. Where a spec stands between the two, see `jobs.resolve`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.errors import EnvironmentNotReady
from providers.catalog import load_catalog
from providers.config import Config
from providers.errors import NotReady
from providers.registry import available

DAY_S = 86_400


class Settings(BaseSettings):
    """Every variable that orch reads; `.env.example` lists them for users."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    provider: str | None = None
    provider_model: str | None = None
    provider_timeout_s: float = Field(default=120, gt=0, le=DAY_S)
    provider_max_retries: int = Field(default=3, ge=0, le=20)
    provider_cb_threshold: int = Field(default=5, ge=1)
    provider_cb_cooldown_s: float = Field(default=30, gt=0, le=DAY_S)
    concurrency: int = Field(default=4, ge=1, le=1000)

    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: str | None = None
    ollama_host: str | None = None
    hf_home: Path | None = None

    flower_basic_auth: SecretStr | None = None

    orch_redis_url: SecretStr | None = None
    orch_runs_dir: Path = Path("runs")
    orch_cache_ttl_s: int = Field(default=7 * 86_400, ge=1)
    orch_cache_max_mb: int = Field(default=512, ge=1)
    orch_models_file: Path | None = None
    orch_lease_s: float = Field(default=15, ge=1, le=3600)
    orch_result_ttl_s: int = Field(default=7 * 86_400, ge=60)
    orch_worker_grace_s: float = Field(default=10, ge=0, le=DAY_S)
    orch_allow_unsandboxed: bool = False
    orch_allowed_packages: str | None = None
    orch_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"

    @property
    def redis_url(self) -> str | None:
        """The fleet's Redis, in redis-py's spelling."""
        return client_url(self.orch_redis_url.get_secret_value()) if self.orch_redis_url else None

    @property
    def provider_config(self) -> Config:
        """What providers are told."""
        return Config(
            timeout_s=self.provider_timeout_s,
            openai_api_key=self.openai_api_key,
            openai_base_url=self.openai_base_url,
            anthropic_api_key=self.anthropic_api_key,
            anthropic_base_url=self.anthropic_base_url,
            ollama_host=self.ollama_host,
            hf_home=self.hf_home,
            models_file=self.orch_models_file,
        )


def load_settings(*, dotenv: bool = True) -> Settings:
    """Read the settings; with `dotenv=False` only what the real environment says.

    Raises:
        EnvironmentNotReady: A variable has a value that it cannot have, or names a file that is not valid.
    """
    try:
        settings = Settings() if dotenv else Settings(_env_file=None)
    except ValidationError as error:
        problems = "; ".join(
            f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise EnvironmentNotReady(f"the environment (or .env) has a bad value: {problems}") from None
    if settings.orch_models_file:
        _check_models_file(settings.orch_models_file)
    return settings


def _check_models_file(path: Path) -> None:
    try:
        catalog = load_catalog(path)
    except NotReady as error:
        raise EnvironmentNotReady(f"ORCH_MODELS_FILE: {error}") from None
    if unknown := catalog.providers - {*available()}:
        known = ", ".join(available())
        raise EnvironmentNotReady(
            f"ORCH_MODELS_FILE: {path}: there is no provider {min(unknown)!r}; use one of {known}"
        )


def client_url(url: str) -> str:
    """Spell a Redis URL as redis-py does (`unix://`)."""
    return url.replace("redis+socket://", "unix://", 1)


def celery_url(url: str) -> str:
    """Spell a Redis URL as kombu does (`redis+socket://`)."""
    return url.replace("unix://", "redis+socket://", 1)
