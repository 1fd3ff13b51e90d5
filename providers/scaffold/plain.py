"""Projects without a web part: what a library and a tool have in common. Their files come whole, purpose and text."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from providers.scaffold import docs, layout
from providers.scaffold.interface import interface_of
from providers.scaffold.words import snake

REQUIREMENTS = ("pytest>=8.0",)
_NOT_PACKAGES = {"test", "tests", "app", "pytest", "ruff"}


@dataclass(frozen=True, slots=True)
class Text:
    """A file of the project: what it is for, and its text."""

    purpose: str
    text: str


Files = Mapping[str, Text]


def package_of(name: str) -> str:
    """Return the name of a project's package: never one that would hide a module of Python's."""
    package = snake(name) or "project"
    return f"{package}_tool" if package in sys.stdlib_module_names | _NOT_PACKAGES else package


def render(template: str, **values: Any) -> str:
    """Fill in a template; Python gets its blank lines set."""
    text = _environment.get_template(f"{template}.j2").render(**values)
    return layout.tidy(text) if template.endswith(".py") else re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def surroundings() -> dict[str, Text]:
    """Return the files around the code."""
    return {
        "requirements.txt": Text("What to install", "\n".join(["# for the tests", *REQUIREMENTS, ""])),
        "pyproject.toml": Text("Settings of pytest and ruff", render("plain/pyproject.toml")),
        ".gitignore": Text("What git leaves alone", render(".gitignore")),
    }


def planned(files: Files) -> list[dict[str, Any]]:
    """Return the files as the plan lists them."""
    return [
        {
            "path": path,
            "purpose": file.purpose,
            "depends_on": _needs(path, files),
            "interface": interface_of(path, file.text),
        }
        for path, file in files.items()
    ]


def imported(names: Iterable[str], module: str) -> str:
    """Write `from module import names`, on one line where that fits."""
    sorted_names = sorted(names)
    line = f"from {module} import {', '.join(sorted_names)}"
    if len(line) <= layout.WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in sorted_names) + ")"


def _needs(path: str, files: Files) -> list[str]:
    if not path.endswith(".py"):
        return []
    modules = [node for node in ast.walk(ast.parse(files[path].text)) if isinstance(node, ast.ImportFrom)]
    places = {place for node in modules for place in _places(node)}
    return [one for one in files if one != path and places & {one, one.removesuffix("/__init__.py")}]


def _places(node: ast.ImportFrom) -> Iterable[str]:
    """Return the files that an import may read: the module, and what is imported from it if that is one."""
    folder = (node.module or "").replace(".", "/")
    return [f"{folder}.py", f"{folder}/__init__.py", *(f"{folder}/{alias.name}.py" for alias in node.names)]


_environment = Environment(  # noqa: S701 - it writes Python and Markdown, not HTML
    loader=PackageLoader("providers.scaffold"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters.update(
    {"prose": layout.prose, "literal": layout.literal, "markdown": docs.markdown, "imported": imported}
)
