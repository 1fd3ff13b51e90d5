"""From a description to the plan of a project, in the form that the architect's tool asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from providers.scaffold import files, handlers
from providers.scaffold.interface import interface_of
from providers.scaffold.nouns import Entity
from providers.scaffold.project import Project, Route, project_of
from providers.scaffold.understanding import Understanding, understand
from providers.scaffold.words import article, spaced

MOST_CRITERIA = 50


def plan_of(name: str, description: str) -> dict[str, Any]:
    """Plan the project that a description asks for."""
    understood = understand(description)
    goal = understood.goal or f"{name}, a small web service"
    entities = [_entity(entity) for entity in understood.entities]
    project = project_of(name, {"goal": goal, "entities": entities, "endpoints": _endpoints(understood)})
    stored = ["SQLAlchemy 2", "SQLite"] if project.tables else []
    return {
        "goal": goal,
        "entities": entities,
        "endpoints": [_described(route) for route in project.routes],
        "stack": ["Python 3.11", "FastAPI", *stored, "Pydantic 2", "pytest"],
        "modules": [
            {"name": "app", "purpose": "The FastAPI application"},
            {"name": "tests", "purpose": "Its tests"},
        ],
        "files": [
            {
                "path": file.path,
                "purpose": file.purpose,
                "depends_on": list(files.needs(project, file.path)),
                "interface": interface_of(file.path, files.render(project, file.path) or ""),
            }
            for file in files.files(project)
        ],
        "dependencies": files.requirements(project),
        "run_command": "uvicorn app.main:app",
        "test_command": "python -m pytest",
        "acceptance": list(_acceptance(project)),
    }


def _entity(entity: Entity) -> dict[str, Any]:
    return {"name": entity.name, "fields": [asdict(field) for field in entity.fields]}


def _endpoints(understood: Understanding) -> list[dict[str, str]]:
    return [asdict(endpoint) for endpoint in understood.endpoints]


def _described(route: Route) -> dict[str, str | None]:
    entity = route.table.name if route.table else None
    return {"method": route.method, "path": route.path, "summary": handlers.summary(route), "entity": entity}


def _acceptance(project: Project) -> Iterator[str]:
    """Yield what is to be checked: each route, as far as there is room, each table, and the tests."""
    others = [
        *(f"{table.name} is stored in the table {table.plural}" for table in project.tables),
        *(f"tests/test_{module}.py tests app/routers/{module}.py" for module in project.modules),
        "README.md documents every endpoint",
    ]
    yield from (_promise(route) for route in project.routes[: MOST_CRITERIA - len(others)])
    yield from others


def _promise(route: Route) -> str:
    endpoint, answers = f"{route.method} {route.path}", f"answers {handlers.status(route)}"
    if route.table is None or route.shape == "echo":
        return f"{endpoint} {answers}"
    noun, several = article(route.table.noun), spaced(route.table.plural)
    does = {
        "list": f"lists {several}",
        "create": f"creates {noun}",
        "clear": f"deletes all {several}",
        "read": f"reads {noun}",
        "replace": f"replaces {noun}",
        "change": f"changes {noun}",
        "delete": f"deletes {noun}",
        "search": f"searches {several}",
        "shorten": "shortens a URL",
        "redirect": "redirects to the URL",
    }
    return f"{endpoint} {does[route.shape]} and {answers}"
