"""Route handlers, piece by piece: names, decorators, signatures, the look-ups on the way."""

from __future__ import annotations

from functools import lru_cache

from providers.scaffold import routes
from providers.scaffold.columns import payload
from providers.scaffold.layout import call, listing, literal
from providers.scaffold.project import Project, Route, Step
from providers.scaffold.words import article, plural, snake, spaced, variable

_VERBS = {
    "list": "list",
    "create": "create",
    "clear": "delete",
    "read": "read",
    "replace": "replace",
    "change": "update",
    "delete": "delete",
    "search": "search",
    "shorten": "shorten",
    "redirect": "follow",
}
_CODES = {201: "HTTP_201_CREATED", 204: "HTTP_204_NO_CONTENT", 307: "HTTP_307_TEMPORARY_REDIRECT"}
_MANY = {"list", "clear", "search"}


@lru_cache(maxsize=16)
def names(project: Project) -> dict[Route, str]:
    """Name the handler of every route, each name once in a project."""
    named: dict[Route, str] = {}
    for route in project.routes:
        name = _natural(route)
        if name in named.values():
            name = snake(f"{route.method} {route.path}")
        while name in named.values():
            name = f"{name}_again"
        named[route] = name
    return named


def summary(route: Route) -> str:
    """Say what a route does, as a docstring or in a table."""
    if route.table is None or route.shape not in _VERBS:
        return _SIMPLE.get(
            route.shape, "Answer with what was sent: no rule of the scaffold covers this route."
        )
    noun, several = article(route.table.noun), spaced(route.table.plural)
    of = f" of {article(route.owners[-1].table.noun)}" if route.owners else ""
    return {
        "list": f"List the {several}{of}, oldest first.",
        "create": f"Create {noun}{of}.",
        "clear": f"Delete all {several}{of}.",
        "read": f"Return {noun}{of}.",
        "replace": f"Replace {noun}{of}.",
        "change": f"Change what is sent of {noun}{of}.",
        "delete": f"Delete {noun}{of}.",
        "search": f"List the {several} that contain the text, oldest first.",
        "shorten": "Store a URL under a new code.",
        "redirect": "Redirect to the URL, and count that.",
    }[route.shape]


def status(route: Route) -> int:
    """Return the status of a route's success."""
    return {"create": 201, "shorten": 201, "delete": 204, "clear": 204, "redirect": 307}.get(route.shape, 200)


def decorator(route: Route) -> str:
    """Write the decorator that registers a handler."""
    arguments = [literal(route.path)]
    if status(route) != 200:
        code = _CODES[status(route)]
        arguments.append(f"status_code=status.{code}")
    if model := _response(route):
        arguments.append(f"response_model={model}")
    if route.shape == "redirect":
        arguments.append("response_class=RedirectResponse")
    return call(f"@router.{route.method.lower()}", arguments)


def signature(route: Route, name: str) -> str:
    """Write the first line of a handler, or lines."""
    return call(f"def {name}", _parameters(route), f") -> {_returns(route)}:")


def lookups(route: Route) -> list[str]:
    """Write the statements that find the rows on the way, so that each belongs to the one before."""
    return [_find(f"{variable(step.table.noun)} =", step, before) for step, before in _chain(route.owners)]


def item(route: Route, purpose: str) -> str:
    """Write the statement that finds the row that the path ends with: `return` it, or `row =`."""
    step = route.steps[-1]
    return _find(purpose, step, route.owners[-1] if route.owners else None)


def belonging(route: Route) -> list[str]:
    """Write the arguments that say to whom the rows belong, if to anybody."""
    return [_belongs_to(route.owners[-1])] if route.owners else []


def received(route: Route) -> list[str]:
    """Write what an echo got: the path's parameters and the payload, as pairs of a dict."""
    found = [f'"{name}": {name}' for name in routes.parameters(route.path)]
    return [*found, '"payload": payload'] if _takes_payload(route) else found


_SIMPLE = {
    "health": "Say that the service is up.",
    "root": "Say what this service is and where its documentation is.",
    "counts": "Count what is stored.",
}


def searched(route: Route) -> str:
    """Write the tuple of the columns that a search looks into."""
    found = [literal(column.name) for column in route.table.columns if column.is_text] if route.table else []
    return f"({found[0]},)" if len(found) == 1 else call("", found, indent=4)


def counted(project: Project) -> str:
    """Write the dict that counts every table."""
    return listing(
        (f'"{table.plural}": repository.count(session, {table.name})' for table in project.tables), 4
    )


def _natural(route: Route) -> str:
    if route.table is None or route.shape not in _VERBS:
        return snake(f"{route.method} {route.path.strip('/') or 'root'}")
    noun = plural(route.table.noun) if route.shape in _MANY else route.table.noun
    of = f"_of_{route.owners[-1].table.noun}" if route.owners else ""
    return f"{_VERBS[route.shape]}_{noun}{of}"


def _response(route: Route) -> str:
    if route.table is None or route.shape not in _VERBS or status(route) in {204, 307}:
        return ""
    return f"list[{route.table.name}Read]" if route.shape in _MANY else f"{route.table.name}Read"


def _returns(route: Route) -> str:
    if route.shape in {"health", "root"}:
        return "dict[str, str]"
    if route.shape == "counts":
        return "dict[str, int]"
    if route.table is None or route.shape == "echo":
        return "dict[str, Any]"
    if status(route) == 204:
        return "None"
    if route.shape == "redirect":
        return "str"
    return f"Sequence[{route.table.name}]" if route.shape in _MANY else route.table.name


def _parameters(route: Route) -> list[str]:
    if route.shape in {"health", "root"}:
        return []
    if route.shape == "echo":
        path = [f"{name}: str" for name in routes.parameters(route.path)]
        return (
            [*path, "payload: Annotated[dict[str, Any] | None, Body()] = None"]
            if _takes_payload(route)
            else path
        )
    found = [f"{step.parameter}: {step.python}" for step in route.steps]
    if route.shape in {"create", "replace", "change", "shorten"}:
        found.append(f"payload: {payload(route)}")
    if route.shape == "search":
        found.append("q: Annotated[str, Query(min_length=1)]")
    found.append("session: SessionDep")
    return [*found, "page: Annotated[Page, Query()]"] if route.shape in {"list", "search"} else found


def _takes_payload(route: Route) -> bool:
    return route.method in {"POST", "PUT", "PATCH"}


def _chain(steps: tuple[Step, ...]) -> list[tuple[Step, Step | None]]:
    return list(zip(steps, (None, *steps), strict=False))


def _find(purpose: str, step: Step, before: Step | None) -> str:
    owner = [_belongs_to(before)] if before else []
    arguments = ["session", step.table.name, f"{step.column}={step.parameter}", *owner]
    return call(f"{purpose} repository.find", arguments, indent=4)


def _belongs_to(step: Step) -> str:
    return f"{step.table.noun}_id={variable(step.table.noun)}.id"
