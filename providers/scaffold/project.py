"""The project that a plan describes, as the templates see it: entities with columns, routes with shapes.

Everything comes from the plan in the prompt. A plan made by somebody else is taken as far as the rules go.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from providers.scaffold import routes, short, words
from providers.scaffold.nouns import Endpoint, Entity, Field
from providers.scaffold.routes import Shape

_STAMPS = {"created_at", "updated_at"}
_PYTHON = {"integer": "int", "number": "float", "boolean": "bool", "date": "date", "datetime": "datetime"}


@dataclass(frozen=True, slots=True)
class Column:
    """A field as the tables have it. `owner` is the noun that it refers to, "" where it is plain data."""

    name: str
    type: str
    required: bool
    owner: str = ""
    unique: bool = False
    made: bool = False

    @property
    def python(self) -> str:
        """The type in Python."""
        return _PYTHON.get(self.type, "str")

    @property
    def is_text(self) -> bool:
        """Whether one can search in it."""
        return self.type in {"string", "text"}

    @property
    def is_stamp(self) -> bool:
        """Whether the server sets it, and no client may."""
        return self.name in _STAMPS and self.type == "datetime"

    @property
    def is_optional(self) -> bool:
        """Whether it may be null: a flag never is, it is false where nobody says."""
        return not self.required and self.type != "boolean" and not self.is_stamp


@dataclass(frozen=True, slots=True)
class Table:
    """An entity with its columns."""

    noun: str
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        """The class."""
        return words.class_name(self.noun)

    @property
    def plural(self) -> str:
        """The name of the table, and of the module with its routes."""
        return words.plural(self.noun)

    @property
    def client_columns(self) -> tuple[Column, ...]:
        """What a client may set."""
        return tuple(column for column in self.columns if not column.is_stamp and not column.made)

    @property
    def owners(self) -> tuple[str, ...]:
        """The nouns that this one refers to."""
        return tuple(column.owner for column in self.columns if column.owner)


@dataclass(frozen=True, slots=True)
class Step:
    """A table on the way of a path, and the parameter and column that find its row."""

    table: Table
    parameter: str
    column: str

    @property
    def python(self) -> str:
        """The parameter's type in the routes' signatures."""
        found = [column.python for column in self.table.columns if column.name == self.column]
        return found[0] if found else "RowId"


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint: what it does, through which rows its path leads (`owners`), and to which (`item`)."""

    method: str
    path: str
    shape: Shape
    table: Table | None = None
    owners: tuple[Step, ...] = ()
    item: Step | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All rows that the path names."""
        return (*self.owners, self.item) if self.item else self.owners

    @property
    def literal_first(self) -> tuple[bool, ...]:
        """A sort key: FastAPI takes the first route that fits, so `/notes/search` comes before `/notes/{id}`."""
        return tuple(segment.startswith("{") for segment in self.path.split("/"))


@dataclass(frozen=True, slots=True)
class Project:
    """All that the files of a project are made from."""

    name: str
    goal: str
    tables: tuple[Table, ...]
    routes: tuple[Route, ...]

    def routes_of(self, table: Table | None) -> tuple[Route, ...]:
        """Return the routes in a table's module, or those of no table, in the order FastAPI has to see them."""
        return tuple(
            sorted(
                (route for route in self.routes if route.table == table),
                key=lambda route: route.literal_first,
            )
        )

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules with routes; last those with a path that begins with a parameter, for it fits others' too."""
        modules = sorted(table.plural for table in self.tables if self.routes_of(table))
        open_ended = [
            route.table.plural for route in self.routes if route.table and route.shape == "redirect"
        ]
        modules += ["service"] if self.routes_of(None) else []
        return tuple(sorted(modules, key=lambda module: module in open_ended))


def project_of(name: str, plan: Mapping[str, Any]) -> Project:
    """Read a plan; what does not fit the rules is left out or served as an echo."""
    entities = _distinct(_entity(entity) for entity in plan.get("entities", ()))
    endpoints = list(_endpoints(plan.get("endpoints", ()), [entity.noun for entity in entities]))
    tables = _tables(entities, endpoints)
    found = tuple(_route(endpoint, tables) for endpoint in endpoints)
    return Project(name, str(plan.get("goal", "")), tuple(tables.values()), found)


def _endpoints(listed: Iterable[Mapping[str, Any]], nouns: Iterable[str]) -> Iterator[Endpoint]:
    for values in listed:
        if path := routes.clean(values["path"]):
            yield routes.renamed(Endpoint(values["method"], path), nouns)


def _entity(values: Mapping[str, Any]) -> Entity:
    noun = words.noun_of(values["name"])
    named = [(words.field_name(field["name"], noun), field) for field in values["fields"]]
    fields = {name: Field(name, field["type"], field.get("required", True)) for name, field in named if name}
    fields.pop(f"{noun}_id", None)
    return Entity(noun, tuple(fields.values()))


def _distinct(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """Leave out entities whose module would have the name of an earlier one's, or of ours."""
    taken = {"service"}
    kept = []
    for entity in entities:
        if (module := words.plural(entity.noun)) not in taken:
            taken.add(module)
            kept.append(entity)
    return tuple(kept)


def _tables(entities: Iterable[Entity], endpoints: Iterable[Endpoint]) -> dict[str, Table]:
    """Return the tables by noun: a column `user_id` refers to a user where that makes no circle."""
    known = {entity.noun: entity for entity in entities}
    keys = _keys(endpoints)
    owners: dict[str, set[str]] = {noun: set() for noun in known}
    tables = {}
    for noun, entity in known.items():
        columns = [
            _column(field, keys.get(noun, set()), _owner(field, noun, owners)) for field in entity.fields
        ]
        if short.is_link(entity):
            columns = [
                replace(one, made=one.name in short.MADE, unique=one.name == "code") for one in columns
            ]
        owners[noun] = {column.owner for column in columns if column.owner}
        tables[noun] = Table(noun, tuple(columns))
    return tables


def _owner(field: Field, noun: str, owners: Mapping[str, set[str]]) -> str:
    owner = field.name.removesuffix("_id")
    refers = field.type == "integer" and owner != field.name and owner in owners
    return owner if refers and noun not in _above(owner, owners) else ""


def _above(noun: str, owners: Mapping[str, set[str]]) -> set[str]:
    return {noun}.union(*(_above(owner, owners) for owner in owners[noun]))


def _column(field: Field, keys: set[str], owner: str) -> Column:
    return Column(field.name, field.type, field.required or field.name in keys, owner, field.name in keys)


def _keys(endpoints: Iterable[Endpoint]) -> dict[str, set[str]]:
    """Return, by noun, the fields by which paths name a row."""
    keys: dict[str, set[str]] = {}
    for endpoint in endpoints:
        for part in routes.parts(endpoint.path):
            if part.parameter and not part.by_id:
                keys.setdefault(part.noun, set()).add(part.parameter)
    return keys


def _route(endpoint: Endpoint, tables: Mapping[str, Table]) -> Route:
    """Take an endpoint apart; it is an echo where its path leads through what is no table, or not related."""
    table = next((table for table in tables.values() if table.name == endpoint.entity), None)
    shape = routes.shape(endpoint)
    if found_short := _short(endpoint, tables):
        return found_short
    if shape in {"health", "root", "counts"} and (tables or shape != "counts"):
        return Route(endpoint.method, endpoint.path, shape)
    found = [_step(part, tables) for part in routes.parts(endpoint.path) if part.parameter]
    steps = [step for step in found if step]
    item = steps[-1] if steps and shape in {"read", "replace", "change", "delete"} else None
    owners = tuple(steps[:-1] if item else steps)
    if table and shape != "echo" and len(steps) == len(found) and _related(owners, table, shape):
        return Route(endpoint.method, endpoint.path, shape, table, owners, item)
    return Route(endpoint.method, endpoint.path, "echo", table)


def _short(endpoint: Endpoint, tables: Mapping[str, Table]) -> Route | None:
    """Take a shortener's endpoint apart; None where it is none, or like any other's."""
    link, shape = tables.get(short.NOUN), short.shape(endpoint)
    if link is None or shape is None or not any(column.made for column in link.columns):
        return None
    item = Step(link, "code", "code") if shape in {"redirect", "read", "delete"} else None
    return Route(endpoint.method, endpoint.path, shape, link, item=item)


def _step(part: routes.Part, tables: Mapping[str, Table]) -> Step | None:
    table = tables.get(part.noun)
    if table is None or not re.fullmatch(r"[a-z_][a-z0-9_]*", part.parameter):
        return None
    if part.by_id:
        return Step(table, part.parameter, "id")
    known = any(column.name == part.parameter for column in table.columns)
    return Step(table, part.parameter, part.parameter) if known else None


def _related(owners: tuple[Step, ...], table: Table, shape: Shape) -> bool:
    """Whether each row on the way belongs to the one before it, and a search has a text to look into."""
    way = [*(step.table for step in owners), table]
    searchable = shape != "search" or any(column.is_text for column in table.columns)
    return searchable and all(owner.noun in child.owners for owner, child in itertools.pairwise(way))
