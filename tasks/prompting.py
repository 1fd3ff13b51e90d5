"""The prompts of the built-in steps: Jinja2 files under prompts/, or a job's own in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.models import JobSpec
from orchestrator.step_prompts import PROMPT_NAMES, as_data, render_step_prompt
from orchestrator.templates import PromptError
from providers import Message
from providers.errors import BadRequest

__all__ = ["FOLDER", "PROMPT_NAMES", "as_data", "render", "version"]

FOLDER = Path(__file__).parent / "prompts"

_NONE: Mapping[str, str] = {}


def render(name: str, overrides: Mapping[str, str] | None = None, /, **values: Any) -> list[Message]:
    """Fill in a step's prompt and return it as a system and a user message.

    Args:
        name: One of PROMPT_NAMES.
        overrides: The job's own prompts by name (`spec.prompts`), which go before the built-in ones.
        values: What the prompt is given; models are read as plain values.

    Raises:
        BadRequest: The prompt reads what is not there, or becomes too large.
    """
    plain = {key: _plain(one) for key, one in values.items()}
    try:
        rendered = render_step_prompt(_source(name, overrides), plain)
    except PromptError as error:
        raise BadRequest(f"{name}.j2 cannot be filled in: {error}") from error
    return [{"role": "system", "content": rendered.system}, {"role": "user", "content": rendered.user}]


def version(name: str, overrides: Mapping[str, str] | None = None) -> str:
    """SHA256 of the prompt's source: a changed prompt is another question, so it is part of the cache key."""
    return hashlib.sha256(_source(name, overrides).encode()).hexdigest()


def _source(name: str, overrides: Mapping[str, str] | None) -> str:
    own = (overrides or _NONE).get(name)
    return _built_in(name) if own is None else own


@lru_cache(maxsize=len(PROMPT_NAMES))
def _built_in(name: str) -> str:
    return (FOLDER / f"{name}.j2").read_text(encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, JobSpec):
        return value.for_prompts()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
