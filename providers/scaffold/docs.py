"""The README's examples: a curl call and an answer for every route."""

from __future__ import annotations

import json
import re
import shlex

from providers.scaffold import routes, samples
from providers.scaffold.columns import sent
from providers.scaffold.layout import printable
from providers.scaffold.project import Column, Project, Route

_HOST = "http://127.0.0.1:8000"


def markdown(text: str) -> str:
    """Return prose on one line in which nothing is markup: no HTML, no fence, no heading."""
    harmless = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("`", "'")
    return re.sub(r"^([#>*+|~=-])", r"\\\1", harmless)


def about(column: Column) -> str:
    """Say what a column's cell in the table of fields does."""
    if column.is_stamp or column.made:
        return "set by the server"
    notes = ["optional" if column.is_optional or not column.required else "required"]
    notes += [f"id of a {column.owner.replace('_', ' ')}"] if column.owner else []
    notes += ["unique"] if column.unique else []
    return ", ".join(notes)


def curl(route: Route) -> str:
    """Write a call of the route for a shell."""
    query = "?q=" + "first" if route.shape == "search" else ""
    method = "" if route.method == "GET" else f" -X {route.method}"
    line = f"curl{method} {shlex.quote(_HOST + samples.url(route) + query)}"
    payload = _payload(route)
    if payload is None:
        return line
    return f"{line} \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(json.dumps(payload))}"


def response(project: Project, route: Route) -> str:
    """Write an answer of the route as JSON; "" where it has no body."""
    answer = _answer(project, route)
    return "" if answer is None else json.dumps(answer, indent=2)


def _payload(route: Route) -> dict[str, object] | None:
    if route.shape == "echo":
        return {"sample": True} if route.method in {"POST", "PUT", "PATCH"} else None
    if route.table is None or route.shape not in {"create", "replace", "change", "shorten"}:
        return None
    return samples.body(samples.changed(route.table) if route.shape == "change" else sent(route.table, route))


def _answer(project: Project, route: Route) -> object:
    simple = {
        "health": {"status": "ok"},
        "root": {"name": project.name, "documentation": "/docs"},
        "counts": {table.plural: 3 for table in project.tables},
        "echo": _echoed(route),
        "delete": None,
        "clear": None,
        "redirect": None,
    }
    if route.table is None or route.shape in simple:
        return simple[route.shape]
    row = samples.row(route.table)
    return [row] if route.shape in {"list", "search"} else row


def _echoed(route: Route) -> dict[str, object]:
    payload = _payload(route)
    received: dict[str, object] = dict.fromkeys(routes.parameters(route.path), "sample")
    received |= {"payload": payload} if payload else {}
    return {"endpoint": f"{route.method} {route.path}", "implemented": False, "received": received}
