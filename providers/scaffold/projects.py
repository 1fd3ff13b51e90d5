"""Which generator a project comes from, by its description and later by its plan; and what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.scaffold import csvtool, files, library
from providers.scaffold import plan as web
from providers.scaffold.genre import genre_of
from providers.scaffold.project import project_of
from providers.scaffold.understanding import goal

Plan = Mapping[str, Any]


def plan_of(name: str, description: str) -> dict[str, Any]:
    """Plan the project that a description asks for."""
    match genre_of(description):
        case "csv":
            return csvtool.plan(name, _goal(description, f"{name}, a tool that loads CSV files into SQLite"))
        case "library":
            return library.plan(name, description, _goal(description, f"{name}, a small library"))
        case _:
            return web.plan_of(name, description)


def text_of(name: str, plan: Plan, path: str) -> str | None:
    """Write one file of a planned project; None where the scaffold has none of that name."""
    if (plain := _plain(name, plan)) is None:
        return files.render(project_of(name, plan), path)
    made = csvtool.files(plain) if isinstance(plain, csvtool.Tool) else library.files(plain)
    return made[path].text if path in made else None


def readme_of(name: str, plan: Plan) -> str:
    """Write the README of a planned project."""
    match _plain(name, plan):
        case csvtool.Tool() as tool:
            return csvtool.readme(tool)
        case library.Library() as made:
            return library.readme(made)
        case _:
            return files.readme(project_of(name, plan))


def _plain(name: str, plan: Plan) -> csvtool.Tool | library.Library | None:
    """Read the plan of a project without a web part; None where it is no such plan of ours."""
    stack, paths = set(plan.get("stack", ())), [str(file["path"]) for file in plan.get("files", ())]
    if {*csvtool.STACK} <= stack and any(path.endswith("/loader.py") for path in paths):
        return csvtool.read(name, plan)
    if library.STACK in stack and any(path.endswith("/functions.py") for path in paths):
        return library.read(name, plan)
    return None


def _goal(description: str, otherwise: str) -> str:
    return goal(description) or otherwise
