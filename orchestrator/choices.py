"""Which provider, model and concurrency a job gets: flag, then environment, then spec, then `.env`, then default.

Resolved once, at submit. A step's own choices are never overridden.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr, ValidationError

from orchestrator.errors import EnvironmentNotReady, UsageError
from orchestrator.models import JobSpec, StepSpec
from orchestrator.settings import Settings
from providers import ProviderError
from providers.config import Config
from providers.errors import BadRequest
from providers.registry import create

AUTO = ("mlx", "ollama", "anthropic", "openai", "scaffold")
"""What `auto` tries, in this order, when nothing is named: what costs nothing, what has a key, what needs no model."""

_KEYLESS = Config(openai_api_key=SecretStr("none"), anthropic_api_key=SecretStr("none"))
"""For looking at options, which no key is needed for."""
PAID = frozenset({"anthropic", "openai"})


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says about a job."""

    provider: str | None = None
    model: str | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A spec in which nothing is left to choose, and one sentence about how the provider was chosen."""

    spec: JobSpec
    why: str


def resolve(spec: JobSpec, flags: Flags, environment: Settings, settings: Settings) -> Choice:
    """Work flags, environment and `.env` into a spec.

    Args:
        spec: What the user wrote.
        flags: What the command line says.
        environment: Settings as the real environment has them, without `.env`.
        settings: Settings with `.env` and defaults.

    Raises:
        UsageError: A flag has a value that a spec could not have.
        EnvironmentNotReady: The same, of the environment or `.env`.
    """
    named = flags.provider or environment.provider
    model = flags.model or (environment.provider_model if _is_for(environment, named) else None)
    provider: str | tuple[str, ...]
    if named and named != "auto":
        provider, why = (
            named,
            "named by --provider" if flags.provider else "named by PROVIDER in the environment",
        )
        model = model or (spec.model if named == first(spec.provider) else None)
        model = model or (settings.provider_model if settings.provider == flags.provider else None)
    elif named is None and spec.provider != "auto":
        provider, why, model = (
            spec.provider,
            "named by the spec",
            model
            or spec.model
            or (settings.provider_model if _is_for(settings, first(spec.provider)) else None),
        )
    elif settings.provider and settings.provider != "auto":
        provider, why, model = (
            settings.provider,
            "named by PROVIDER in the environment" if environment.provider else "named by PROVIDER in .env",
            model or (spec.model if spec.provider == "auto" else None) or settings.provider_model,
        )
    else:
        model = model or (spec.model if spec.provider == "auto" else None) or settings.provider_model
        provider, model, why = _first_ready(model, settings)
    changed = {
        "provider": provider,
        "model": model,
        "concurrency": flags.concurrency or spec.concurrency or settings.concurrency,
    }
    try:
        resolved = JobSpec.model_validate(spec.model_dump(exclude_none=True) | changed)
    except ValidationError as error:
        message = f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['input']!r} is not possible: {why}"
        by_flag = getattr(flags, str(error.errors()[0]["loc"][0]), None) is not None
        raise (UsageError if by_flag else EnvironmentNotReady)(message) from None
    require_options(resolved)
    return Choice(resolved, why)


def require_ready(spec: JobSpec, settings: Settings) -> None:
    """Raise EnvironmentNotReady unless this machine can serve every step of the spec."""
    wanted = {(fallbacks(step.provider or spec.provider), model_of(spec, step)) for step in spec.all_steps()}
    for names, model in wanted:
        problems = [unready(name, model if n == 0 else None, settings) for n, name in enumerate(names)]
        if all(problems):
            raise EnvironmentNotReady(str(problems[0]))


def require_options(spec: JobSpec) -> None:
    """Raise UsageError when an option of a step has a value that its provider could never take.

    Nothing is asked, and no key is needed; a provider that cannot be made here is left to the workers.
    """
    for step in spec.all_steps():
        for name in fallbacks(step.provider or spec.provider):
            try:
                create(name, model_of(spec, step) or "any", _KEYLESS).check_options(
                    {**spec.options, **step.options}
                )
            except BadRequest as error:
                raise UsageError(f"step {step.id}: {error}") from None
            except ProviderError:
                continue


def unready(name: str, model: str | None, settings: Settings) -> str | None:
    """Why this machine cannot ask that provider for that model now; None when it can."""
    try:
        create(name, model, settings.provider_config).check()
    except ProviderError as error:
        return str(error)
    return None


def fallbacks(provider: str | tuple[str, ...]) -> tuple[str, ...]:
    """The providers of a choice, in order."""
    return (provider,) if isinstance(provider, str) else provider


def first(provider: str | tuple[str, ...]) -> str:
    """The provider that is asked first."""
    return fallbacks(provider)[0]


def _is_for(settings: Settings, provider: str | None) -> bool:
    """Whether the model that these settings name is meant for a provider."""
    return settings.provider is None or provider is None or settings.provider == provider


def model_of(spec: JobSpec, step: StepSpec) -> str | None:
    """The model that a step asks for: its own, else the job's where it also has the job's provider."""
    same = step.provider is None or first(step.provider) == first(spec.provider)
    return step.model or (spec.model if same else None)


def _first_ready(model: str | None, settings: Settings) -> tuple[str, str | None, str]:
    """The first provider that is ready here, the model that it would be asked for, and why it is that one."""
    config = settings.provider_config
    for name in AUTO:
        own = None if name == "scaffold" else model
        if name in PAID and own and not config.catalog.knows(name, own):
            continue
        try:
            provider = create(name, own, config)
            asked = own or provider.preferred_model()
            create(name, asked, config).check()
        except ProviderError:
            continue
        return name, asked if name != "scaffold" else model, "the first that is ready here (auto)"
    raise EnvironmentNotReady(f"none of these providers is ready: {', '.join(AUTO)}")
