"""The generated tests, piece by piece: constants, fixtures, requests."""

from __future__ import annotations

from collections.abc import Iterable

from providers.scaffold import samples
from providers.scaffold.columns import sent
from providers.scaffold.layout import call, listing, literal
from providers.scaffold.project import Route, Table
from providers.scaffold.words import class_name

_WITH_ROW = {"redirect", "list", "search", "read", "replace", "change", "delete", "clear"}
_WRITES = {"create", "shorten", "replace", "change"}


def constants(table: Table, routes: Iterable[Route]) -> list[str]:
    """Write the payloads that the tests of a table send."""
    shapes = {route.shape for route in routes}
    plain = table.client_columns
    found = []
    if shapes & {"create", "read", "change", "shorten"}:
        found.append(f"PAYLOAD: dict[str, object] = {listing(samples.pairs(plain))}")
    if "replace" in shapes:
        found.append(f"OTHER: dict[str, object] = {listing(samples.pairs(plain, other=True))}")
    if "change" in shapes:
        found.append(
            f"CHANGES: dict[str, object] = {listing(samples.pairs(samples.changed(table), other=True))}"
        )
    return found


def fixture(table: Table) -> str:
    """Write the first line of the fixture that stores a row."""
    owners = [f"stored_{owner}: {class_name(owner)}" for owner in dict.fromkeys(table.owners)]
    return call(f"def stored_{table.noun}", ["session: Session", *owners], f") -> {table.name}:")


def stored_values(table: Table) -> list[str]:
    """Write the arguments that make a row."""
    return [
        f"{column.name}={f'stored_{column.owner}.id' if column.owner else samples.python(column)}"
        for column in table.columns
        if column in table.client_columns or column.unique
    ]


def heading(route: Route, name: str, *, alone: bool = False) -> str:
    """Write the first line of a test with the fixtures that the route needs, or with the client alone."""
    if alone:
        return call(f"def {name}", ["client: TestClient"], ") -> None:")
    nouns = [step.table.noun for step in route.owners]
    if route.table and route.shape in {"create", "replace"}:
        nouns += [column.owner for column in sent(route.table, route) if column.owner]
    if route.table and route.shape in _WITH_ROW:
        nouns.append(route.table.noun)
    rows = [f"stored_{noun}: {class_name(noun)}" for noun in dict.fromkeys(nouns)]
    session = ["session: Session"] if route.shape in {"delete", "clear", "redirect"} else []
    return call(f"def {name}", ["client: TestClient", *session, *rows], ") -> None:")


def request(route: Route, *, known: bool = True, empty: bool = False) -> str:
    """Write the statement that sends a request to the route, for stored rows or for one that is not known."""
    path = samples.stored_url(route) if known else samples.unknown_url(route)
    arguments = [f"f{literal(path)}" if known and route.steps else literal(path)]
    if route.shape == "search":
        arguments.append(f'params={{"q": {_searched(route)}}}')
    elif route.shape in _WRITES:
        arguments.append(f"json={'{}' if empty else _json(route, known=known)}")
    elif route.shape == "redirect":
        arguments.append("follow_redirects=False")
    elif route.shape == "echo" and route.method in {"POST", "PUT", "PATCH"}:
        arguments.append('json={"sample": True}')
    return call(f"answer = client.{route.method.lower()}", arguments, indent=4)


def has_required(route: Route) -> bool:
    """Whether a payload of the route has to have something."""
    return any(column.required for column in sent(route.table, route)) if route.table else False


def changed(route: Route) -> bool:
    """Whether there is a plain column to change."""
    return bool(route.table and samples.changed(route.table))


def _json(route: Route, *, known: bool) -> str:
    if route.table is None or route.shape == "change":
        return "CHANGES"
    constant = "PAYLOAD" if route.shape in {"create", "shorten"} else "OTHER"
    owners = [column for column in sent(route.table, route) if column.owner]
    ids = [f'"{column.name}": {f"stored_{column.owner}.id" if known else 1}' for column in owners]
    return listing([f"**{constant}", *ids], 8) if ids else constant


def _searched(route: Route) -> str:
    columns = route.table.columns if route.table else ()
    return next(literal(str(samples.value(column))) for column in columns if column.is_text)
