"""The prompts of the built-in steps: Jinja2 files under prompts/, a system block and a user block each."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from providers import Message

FOLDER = Path(__file__).parent / "prompts"


def as_data(content: str, tag: str, **attributes: str) -> str:
    """Wrap untrusted text in a tag that the text itself cannot close."""
    head = "".join(f' {name}="{value}"' for name, value in attributes.items())
    body = content.replace(f"</{tag}", f"<\\/{tag}")
    return f"<{tag}{head}>\n{body}\n</{tag}>"


_environment = ImmutableSandboxedEnvironment(
    loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False
)
_environment.filters["data"] = as_data


def render(name: str, **values: Any) -> list[Message]:
    """Render `prompts/<name>.j2` as a system and a user message."""
    template = _environment.get_template(f"{name}.j2")
    context = template.new_context(values)
    system, user = ("".join(template.blocks[block](context)) for block in ("system", "user"))
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def version(name: str) -> str:
    """SHA256 of the prompt's source: a changed prompt is another question, so it is part of the cache key."""
    return hashlib.sha256((FOLDER / f"{name}.j2").read_bytes()).hexdigest()
