"""Example values: what the generated tests send and store, and what the README shows."""

from __future__ import annotations

import json
import re

from providers.scaffold.project import Column, Route, Step, Table
from providers.scaffold.words import spaced

_TEXTS = {
    "author": ("Ada Lovelace", "Alan Turing"),
    "name": ("Ada", "Alan"),
    "title": ("First title", "Another title"),
    "isbn": ("9780131103627", "9780201633610"),
    "phone": ("+49 30 1234567", "+44 20 7654321"),
    "status": ("open", "closed"),
    "priority": ("high", "low"),
}


def value(column: Column, *, other: bool = False) -> str | int | float | bool:
    """Return an example of the column's JSON, or another one."""
    at = int(other)
    match column.type:
        case "integer":
            return (2024, 2025)[at] if column.name.endswith("year") else (3, 4)[at]
        case "number":
            return (9.5, 12.25)[at]
        case "boolean":
            return not other
        case "date":
            return ("2024-05-17", "2024-06-18")[at]
        case "datetime":
            return ("2024-05-17T09:30:00", "2024-06-18T10:45:00")[at]
        case _:
            return _text(column)[at]


def python(column: Column) -> str:
    """Return the example as an expression of Python."""
    shown = value(column)
    if column.type in {"date", "datetime"}:
        parts = ", ".join(
            str(int(part)) for part in re.findall(r"\d+", str(shown))[: 5 if column.type == "datetime" else 3]
        )
        return f"{column.type}({parts})"
    return _expression(shown)


def pairs(columns: tuple[Column, ...], *, other: bool = False) -> list[str]:
    """Return the examples of plain columns as pairs of a Python dict."""
    plain = [column for column in columns if not column.owner]
    return [f'"{column.name}": {_expression(value(column, other=other))}' for column in plain]


def changed(table: Table) -> tuple[Column, ...]:
    """Return the one column that the tests change, if the table has a plain one."""
    return tuple(column for column in table.client_columns if not column.owner)[:1]


def body(columns: tuple[Column, ...]) -> dict[str, object]:
    """Return a payload for the README; rows are referred to as number 1."""
    return {column.name: 1 if column.owner else value(column) for column in columns}


def row(table: Table) -> dict[str, object]:
    """Return a row for the README."""
    stamp = "2024-05-17T09:30:00"
    plain = {
        column.name: stamp if column.is_stamp else 1 if column.owner else value(column)
        for column in table.columns
    }
    return {"id": 1, **plain}


def url(route: Route) -> str:
    """Return the route's URL with example parameters."""
    shown = {step.parameter: _key(step) for step in route.steps}
    return re.sub(r"{(\w+)}", lambda name: shown.get(name[1], "sample"), route.path)


def stored_url(route: Route) -> str:
    """Return the URL as an f-string's text that refers to the test's stored rows."""
    shown = {step.parameter: f"{{stored_{step.table.noun}.{step.column}}}" for step in route.steps}
    return re.sub(r"{(\w+)}", lambda name: shown.get(name[1], "sample"), route.path)


def unknown_url(route: Route) -> str:
    """Return the URL of a row that does not exist."""
    shown = {step.parameter: "999" if step.column == "id" else str(_unknown(step)) for step in route.steps}
    return re.sub(r"{(\w+)}", lambda name: shown.get(name[1], "sample"), route.path)


def _expression(shown: float | str) -> str:
    return json.dumps(shown) if isinstance(shown, str) else repr(shown)


def _key(step: Step) -> str:
    found = [str(value(column)) for column in step.table.columns if column.name == step.column]
    return found[0] if found else "1"


def _unknown(step: Step) -> object:
    return next(value(column, other=True) for column in step.table.columns if column.name == step.column)


def _text(column: Column) -> tuple[str, str]:
    name = column.name
    if name.endswith("email"):
        return "ada@example.com", "alan@example.com"
    if column.unique:
        return f"{name}-1", f"{name}-2"
    if name.endswith(("url", "link", "website")):
        return "https://example.com/first", "https://example.com/second"
    words = spaced(name)
    return _TEXTS.get(name, (f"Some {words}", f"Another {words}"))
