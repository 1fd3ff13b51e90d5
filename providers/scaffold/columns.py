"""Columns as lines of code: in the tables, and in the schemas of what clients send and get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from providers.scaffold.layout import call
from providers.scaffold.project import Column, Project, Route, Table
from providers.scaffold.words import article, class_name, plural, spaced

_WRITES = {"create", "replace", "shorten"}
_EMAIL = 'pattern=r"^[^@\\s]+@[^@\\s]+$"'


@dataclass(frozen=True, slots=True)
class Schema:
    """A pydantic model: its lines, and the fields of which null is no value although they may be left out."""

    name: str
    purpose: str
    lines: tuple[str, ...]
    reads_rows: bool = False
    never_null: tuple[str, ...] = ()


def mapped(column: Column) -> str:
    """Write the column of a table."""
    kind = f"{column.python} | None" if column.is_optional else column.python
    line = f"{column.name}: Mapped[{kind}]"
    arguments = [*_column_type(column), *(["unique=True"] if column.unique else [])]
    return call(f"{line} = mapped_column", arguments, indent=4) if arguments else line


@lru_cache(maxsize=16)
def schemas(project: Project) -> tuple[Schema, ...]:
    """Return the schemas that the routes use, table by table."""
    return tuple(
        schema for table in project.tables for schema in _schemas_of(table, project.routes_of(table))
    )


def never_null(schema: Schema) -> str:
    """Write the decorator of the validator for what may be left out but not null."""
    return call("@field_validator", [f'"{name}"' for name in schema.never_null], indent=4)


def payload(route: Route) -> str:
    """Return the name of the schema that a writing route takes: what the path says is not in it."""
    table = route.table.name if route.table else ""
    owner = class_name(route.owners[-1].table.noun) if route.owners else ""
    if route.shape == "change":
        return f"{table}Update"
    return f"{table}Of{owner}Create" if owner else f"{table}Create"


def sent(table: Table, route: Route) -> tuple[Column, ...]:
    """Return the columns in a writing route's payload."""
    owner = route.owners[-1].table.noun if route.owners and route.shape != "change" else None
    return tuple(column for column in table.client_columns if not owner or column.owner != owner)


def _schemas_of(table: Table, routes: Iterable[Route]) -> Iterator[Schema]:
    routes = list(routes)
    noun = article(table.noun)
    for name, columns in {
        payload(route): sent(table, route) for route in routes if route.shape in _WRITES
    }.items():
        yield Schema(name, f"What a client sends to store {noun}.", tuple(map(_created, columns)))
    if any(route.shape == "change" for route in routes):
        lines = tuple(_changed(column) for column in table.client_columns)
        required = tuple(column.name for column in table.client_columns if not column.is_optional)
        yield Schema(
            f"{table.name}Update", f"What a client sends to change {noun}.", lines, never_null=required
        )
    if any(route.shape not in {"clear", "delete", "echo"} for route in routes):
        lines = ("id: int", *(f"{column.name}: {_read_type(column)}" for column in table.columns))
        yield Schema(
            f"{table.name}Read", f"{noun[:1].upper()}{noun[1:]} as clients get it.", lines, reads_rows=True
        )


def _column_type(column: Column) -> list[str]:
    if column.owner:
        return [f'ForeignKey("{plural(column.owner)}.id", ondelete="CASCADE")', "index=True"]
    if column.is_stamp:
        return [
            "server_default=func.now()",
            *(["onupdate=func.now()"] if column.name == "updated_at" else []),
        ]
    if column.type == "boolean" and not column.required:
        return ["default=False"]
    if column.made and column.type == "integer":
        return ["default=0"]
    return {"string": ["String(200)"], "text": ["Text"]}.get(column.type, [])


def _created(column: Column) -> str:
    limits = _limits(column)
    if column.type == "boolean" and not column.required:
        return f"{column.name}: bool = False"
    if column.required:
        line = f"{column.name}: {_sent_type(column)}"
        return call(f"{line} = Field", limits, indent=4) if limits else line
    return _optional(column, [limit for limit in limits if limit != "min_length=1"])


def _changed(column: Column) -> str:
    return _optional(column, _limits(column))


def _optional(column: Column, limits: list[str]) -> str:
    line = f"{column.name}: {_sent_type(column)} | None"
    return call(f"{line} = Field", ["default=None", *limits], indent=4) if limits else f"{line} = None"


def _limits(column: Column) -> list[str]:
    if column.type == "text" and column.name == "url":
        return ["max_length=2000", r'pattern=r"^https?://\S+$"']
    if column.type != "string":
        return []
    return ["max_length=200", _EMAIL] if column.name.endswith("email") else ["min_length=1", "max_length=200"]


def _sent_type(column: Column) -> str:
    if column.owner:
        return "RowId"
    return {"integer": "Integer", "number": "Number"}.get(column.type, column.python)


def _read_type(column: Column) -> str:
    return f"{column.python} | None" if column.is_optional else column.python


def purpose_of(table: Table) -> str:
    """Return what a table keeps, for people: `title, body`."""
    return ", ".join(spaced(column.name) for column in table.columns)
