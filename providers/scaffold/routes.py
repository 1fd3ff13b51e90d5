"""Endpoints: found in prose, their paths taken apart, and what each one does (its shape)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from providers.scaffold import words
from providers.scaffold.lexicon import TAKEN_VARIABLES
from providers.scaffold.nouns import Endpoint

Shape = Literal[
    "list",
    "create",
    "clear",
    "read",
    "replace",
    "change",
    "delete",
    "search",
    "shorten",
    "redirect",
    "health",
    "counts",
    "root",
    "echo",
]
MOST = 100

_METHOD = r"(?:GET|POST|PUT|PATCH|DELETE)"
_PATH = r"/(?:[A-Za-z0-9_\-{}<>:./]{0,150}+)(?!\w)"
_METHODS_THEN_PATH = re.compile(
    rf"(?<!\w)(?P<methods>{_METHOD}(?: ?(?:,|/|\||and|or|und|&) ?{_METHOD}){{0,4}})(?: requests?)?"
    rf"[ :`\"'*]{{1,3}}(?:(?:to|at|on|from|auf|for) )?[`\"']?(?P<path>{_PATH})",
    re.IGNORECASE,
)
_PATH_THEN_METHODS = re.compile(
    rf"(?<![\w/.}}])(?P<path>{_PATH})[`\"']? ?[:(\[\-]? ?"
    rf"(?P<methods>{_METHOD}(?: ?[,/|&] ?{_METHOD}){{0,4}})(?!\w| /)"
)
_SERVED_BY_FASTAPI = {"/docs", "/redoc", "/openapi.json"}
_HEALTH = {"health", "healthz", "healthcheck", "ping", "status", "ready", "readiness", "live", "liveness"}
_COUNTS = {"stats", "statistics", "count", "counts", "metrics"}
_NOT_RESOURCES = _HEALTH | _COUNTS | {"docs", "search", "login", "logout", "settings", "news_feed", "assets"}
_ITEM: dict[str, Shape] = {"GET": "read", "PUT": "replace", "PATCH": "change", "DELETE": "delete"}
_COLLECTION: dict[str, Shape] = {"GET": "list", "POST": "create", "DELETE": "clear"}


@dataclass(frozen=True, slots=True)
class Part:
    """One literal segment of a path and the parameter after it, "" where there is none."""

    literal: str
    parameter: str = ""

    @property
    def noun(self) -> str:
        """The singular of the literal."""
        return words.singular(words.snake(self.literal))

    @property
    def by_id(self) -> bool:
        """Whether the parameter is an id, rather than another attribute."""
        return (
            bool(re.fullmatch(r"(.+_)?(id|pk|uuid)|.+[a-z]id", self.parameter)) or self.parameter == self.noun
        )


def find(text: str) -> tuple[list[Endpoint], str]:
    """Find the endpoints that a text names; return them, and the text without them."""
    flat = re.sub(r"[^\S\n]+", " ", text)
    found = [
        Endpoint(method.upper(), path)
        for pattern in (_METHODS_THEN_PATH, _PATH_THEN_METHODS)
        for match in pattern.finditer(flat)
        if (path := clean(match["path"]))
        for method in re.findall(_METHOD, match["methods"], re.IGNORECASE)
    ]
    rest = _PATH_THEN_METHODS.sub(" . ", _METHODS_THEN_PATH.sub(" . ", flat))
    return list(dict.fromkeys(found)), rest


def parts(path: str) -> tuple[Part, ...]:
    """Take a path apart; a parameter without a literal before it gets an empty one."""
    found: list[Part] = []
    for segment in path.strip("/").split("/"):
        if not segment.startswith("{"):
            found.append(Part(segment))
        elif found and not found[-1].parameter:
            found[-1] = Part(found[-1].literal, segment.strip("{}"))
        else:
            found.append(Part("", segment.strip("{}")))
    return tuple(part for part in found if part.literal or part.parameter)


def parameters(path: str) -> tuple[str, ...]:
    """Return the names of a path's parameters, in order."""
    return tuple(re.findall(r"{(\w+)}", path))


def resources(endpoints: Iterable[Endpoint], spoken: Iterable[str]) -> list[str]:
    """Return the nouns of the paths that stand for things to store, in the order of their first mention."""
    endpoints, spoken = list(endpoints), set(spoken)
    methods_of: dict[str, set[str]] = {}
    for endpoint in endpoints:
        methods_of.setdefault(endpoint.path, set()).add(endpoint.method)
    return list(
        dict.fromkeys(
            part.noun
            for endpoint in endpoints
            for part, last in _resource_candidates(parts(endpoint.path))
            if _is_resource(part, spoken, methods_of[endpoint.path] if last else set())
        )
    )


def renamed(endpoint: Endpoint, nouns: Iterable[str]) -> Endpoint:
    """Give the parameters names that are safe and say what they identify, and name the entity worked on."""
    nouns, path, entity = set(nouns), "", ""
    for part in parts(endpoint.path):
        known = part.noun in nouns
        path += f"/{part.literal}" if part.literal else ""
        if part.parameter:
            path += f"/{{{_parameter(part, known, path)}}}"
        entity = words.class_name(part.noun) if known else entity
    return Endpoint(endpoint.method, path or "/", entity)


def shape(endpoint: Endpoint) -> Shape:
    """Say what a route does; `echo` where no rule covers it."""
    steps = [part for part in parts(endpoint.path) if part.parameter or not _is_prefix(part)]
    if not steps:
        return "root" if endpoint.method == "GET" else "echo"
    last, owners = steps[-1], steps[:-1]
    if endpoint.method == "GET" and (simple := _simple(last, owners, endpoint.entity)):
        return simple
    nested = all(part.parameter and part.literal for part in owners)
    if words.class_name(last.noun) != endpoint.entity or not nested:
        return "echo"
    return (_ITEM if last.parameter else _COLLECTION).get(endpoint.method, "echo")


def is_service(literal: str) -> bool:
    """Whether a path of that name is about the service, and not about what it stores."""
    return literal in _NOT_RESOURCES


def clean(path: str) -> str | None:
    """Return the path with its parameters as {name}, or None for one that we do not serve."""
    segments = [segment for segment in re.sub(r"(?<=[\w}])[.:-]+$", "", path).split("/") if segment]
    cleaned = [_segment(segment) for segment in segments]
    whole = "/" + "/".join(segment or "" for segment in cleaned)
    if None in cleaned or len(cleaned) > 8 or whole in _SERVED_BY_FASTAPI:
        return None
    return whole if len(set(parameters(whole))) == len(parameters(whole)) else None


def _simple(last: Part, owners: list[Part], entity: str) -> Shape | None:
    if last.parameter:
        return None
    if last.literal == "search" and entity and [words.class_name(part.noun) for part in owners] == [entity]:
        return "search"
    if owners:
        return None
    return "health" if last.literal in _HEALTH else "counts" if last.literal in _COUNTS else None


def _segment(segment: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9_\-.]+", segment):
        return segment if segment.strip(".") else None
    if match := re.fullmatch(r"(?:{(\w+)(?::\w+)?}|<(?:\w+:)?(\w+)>|:(\w+))", segment):
        name = words.snake(next(filter(None, match.groups())))
        return f"{{{name}}}" if name else None
    return None


def _resource_candidates(path: tuple[Part, ...]) -> Iterator[tuple[Part, bool]]:
    for at, part in enumerate(path):
        last = at == len(path) - 1
        if part.literal and part.noun and (part.parameter or last) and not _is_prefix(part):
            yield part, last and not part.parameter


def _is_resource(part: Part, spoken: set[str], methods: set[str]) -> bool:
    literal = words.snake(part.literal)
    if part.noun in spoken:
        return literal not in _NOT_RESOURCES
    if part.parameter:
        return words.singular(literal) != literal or part.by_id
    return literal not in _NOT_RESOURCES and (words.is_plural(literal) or {"GET", "POST"} <= methods)


def _is_prefix(part: Part) -> bool:
    return bool(re.fullmatch(r"api|rest|v\d+", part.literal)) and not part.parameter


def _parameter(part: Part, known: bool, before: str) -> str:
    name = words.field_name(part.parameter, part.noun or "path")
    if known and part.by_id:
        name = f"{part.noun}_id"
    elif name in TAKEN_VARIABLES:
        name = f"path_{name}"
    return f"{name}_{len(parameters(before))}" if name in parameters(before) else name
