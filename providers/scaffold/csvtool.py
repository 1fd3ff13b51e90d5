"""A tool for the command line that loads CSV files into SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from providers.scaffold.plain import REQUIREMENTS, Files, Text, package_of, planned, render, surroundings

STACK = ("argparse", "csv", "sqlite3")


@dataclass(frozen=True, slots=True)
class Tool:
    """All that the files are made from."""

    name: str
    package: str
    goal: str


def plan(name: str, goal: str) -> dict[str, Any]:
    """Plan the tool."""
    made = Tool(name, package_of(name), goal)
    package = made.package
    return {
        "goal": goal,
        "stack": ["Python 3.11", *STACK, "pytest"],
        "modules": [
            {"name": package, "purpose": "Reads CSV files and writes SQLite tables; its command line"},
            {"name": "tests", "purpose": "Its tests"},
        ],
        "entities": [],
        "endpoints": [],
        "files": planned(files(made)),
        "dependencies": [*REQUIREMENTS],
        "run_command": f"python -m {package} --help",
        "test_command": "python -m pytest",
        "acceptance": [
            f"{package}/reader.py defines read_table",
            f"{package}/loader.py defines load_csv",
            f"{package}/__main__.py defines main",
            f"tests/test_reader.py tests {package}/reader.py",
            f"tests/test_loader.py tests {package}/loader.py",
            f"tests/test_main.py tests {package}/__main__.py",
            "README.md documents every function",
        ],
    }


def read(name: str, plan: Mapping[str, Any]) -> Tool:
    """Read the tool's plan back."""
    loader = next(file["path"] for file in plan["files"] if file["path"].endswith("/loader.py"))
    return Tool(name, loader.partition("/")[0], str(plan["goal"]))


def files(made: Tool) -> Files:
    """Return the project's files but for its README."""
    package = made.package
    purposes = {
        f"{package}/__init__.py": "The package",
        f"{package}/reader.py": "Reading CSV: columns, their types, values",
        f"{package}/loader.py": "Writing what was read into a table of SQLite",
        f"{package}/__main__.py": "The command line",
        "tests/test_reader.py": f"Tests of {package}/reader.py",
        "tests/test_loader.py": f"Tests of {package}/loader.py",
        "tests/test_main.py": f"Tests of {package}/__main__.py",
    }
    written = {
        path: Text(purpose, render(f"csv/{path.partition('/')[2]}", made=made))
        for path, purpose in purposes.items()
    }
    return written | surroundings()


def readme(made: Tool) -> str:
    """Write README.md."""
    return render("csv/README.md", made=made, files=files(made))
