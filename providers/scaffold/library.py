"""A library, with or without a command line: functions from the catalog, and honest stubs for others."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from providers.scaffold import functions
from providers.scaffold.functions import Function
from providers.scaffold.genre import is_tool
from providers.scaffold.plain import REQUIREMENTS, Files, Text, package_of, planned, render, surroundings

STACK = "the standard library"
_IMPORTS = {
    "math": "import math",
    "re": "import re",
    "unicodedata": "import unicodedata",
    "Counter": "from collections import Counter",
    "Iterable": "from collections.abc import {}",
    "Sequence": "from collections.abc import {}",
    "date": "from datetime import date",
    "Any": "from typing import Any",
}


@dataclass(frozen=True, slots=True)
class Library:
    """All that the files are made from."""

    name: str
    package: str
    goal: str
    functions: tuple[Function, ...]
    tool: bool

    @property
    def commands(self) -> tuple[Function, ...]:
        """The functions that can be called from the command line."""
        return tuple(one for one in self.functions if one.parameters is not None)

    @property
    def stubs(self) -> tuple[Function, ...]:
        """The functions that are not written."""
        return tuple(one for one in self.functions if not one.cases)


def plan(name: str, description: str, goal: str) -> dict[str, Any]:
    """Plan the library, or the tool, that a description asks for."""
    found = functions.asked(description) or (functions.about(goal),)
    made = Library(name, package_of(name), goal, found, is_tool(description))
    tests = [("tests/test_functions.py", f"{made.package}/functions.py")]
    tests += [("tests/test_main.py", f"{made.package}/__main__.py")] if made.tool else []
    return {
        "goal": goal,
        "stack": ["Python 3.11", STACK, *(["argparse"] if made.tool else []), "pytest"],
        "modules": [
            {"name": made.package, "purpose": "The functions" + (", and their command line" * made.tool)},
            {"name": "tests", "purpose": "Its tests"},
        ],
        "entities": [],
        "endpoints": [],
        "files": planned(files(made)),
        "dependencies": [*REQUIREMENTS],
        "run_command": f"python -m {made.package} --help"
        if made.tool
        else f"python -c 'import {made.package}'",
        "test_command": "python -m pytest",
        "acceptance": [
            *(f"{made.package}/functions.py defines {one.name}" for one in made.functions),
            *(f"{test} tests {module}" for test, module in tests),
            "README.md documents every function",
        ],
    }


def read(name: str, plan: Mapping[str, Any]) -> Library:
    """Read a library's plan back: its functions are those that its module offers."""
    module = next(file for file in plan["files"] if file["path"].endswith("/functions.py"))
    goal = str(plan["goal"])
    found = functions.offered(module["interface"], goal)
    return Library(name, module["path"].partition("/")[0], goal, found, "argparse" in plan["stack"])


def files(made: Library) -> Files:
    """Return the project's files but for its README."""
    package = made.package
    names = [one.name for one in made.functions]
    code = "\n\n".join(one.source for one in made.functions)
    values = {"made": made, "names": names, "code": code, "imports": _imports(code)}
    found = {
        f"{package}/__init__.py": Text("The package", render("library/__init__.py", **values)),
        f"{package}/functions.py": Text("The functions", render("library/functions.py", **values)),
        "tests/test_functions.py": Text(
            f"Tests of {package}/functions.py", render("library/test_functions.py", **values)
        ),
    }
    if made.tool:
        found |= {
            f"{package}/__main__.py": Text(
                "The command line: a command for each function", render("library/__main__.py", **values)
            ),
            "tests/test_main.py": Text(
                f"Tests of {package}/__main__.py", render("library/test_main.py", **values)
            ),
        }
    return found | surroundings()


def readme(made: Library) -> str:
    """Write README.md."""
    return render("library/README.md", made=made, files=files(made))


def _imports(code: str) -> list[str]:
    """Return the imports of the code: modules first, each of them used."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    lines: dict[str, list[str]] = {}
    for name, line in _IMPORTS.items():
        if name in used:
            lines.setdefault(line, []).append(name)
    return [line.format(", ".join(names)) for line, names in lines.items()]
