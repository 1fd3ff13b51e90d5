"""URL shorteners: what their one table has, and what their routes do, whatever their paths are called."""

from __future__ import annotations

import re
from collections.abc import Iterable

from providers.scaffold import routes
from providers.scaffold.nouns import Endpoint, Entity, Field
from providers.scaffold.routes import Shape

NOUN = "link"
LINK = Entity(
    NOUN,
    (Field("url", "text"), Field("code"), Field("clicks", "integer", False), Field("created_at", "datetime")),
)
MADE = frozenset({"code", "clicks"})
"""Columns that the server fills."""

_ASKED = re.compile(
    r"\b(?:urls?|links?|web[\s-]?address(?:es)?)[\s-]?(?:shortener|shortening|kürzer|kürzung|verkürz)\w*"
    r"|\b(?:shorten\w*|(?:ver)?kürz(?:t|en|er)|short)\W+(?:\w+\W+){0,3}?(?:urls?|links?)\b"
    r"|\b(?:urls?|links?)\W+(?:\w+\W+){0,3}?(?:ver)?kürz\w*|\btiny[\s-]?urls?\b",
    re.IGNORECASE,
)
_BEFORE_CODES = {"r", "s", "go", "l", "u", "to", "redirect", "short", "x"}
_DEFAULT = (
    Endpoint("POST", "/shorten"),
    Endpoint("GET", "/links"),
    Endpoint("GET", "/links/{code}"),
    Endpoint("DELETE", "/links/{code}"),
    Endpoint("GET", "/{code}"),
)


def is_asked(text: str) -> bool:
    """Whether a description asks for a URL shortener."""
    return bool(_ASKED.search(text))


def endpoints(named: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints that a description names, and ways to shorten and to follow where it names none."""
    found = [_with_code(endpoint) for endpoint in named]
    if not found:
        return tuple(_marked(endpoint) for endpoint in _DEFAULT)
    shapes = {shape(endpoint) for endpoint in found}
    found += [_DEFAULT[0]] if "shorten" not in shapes else []
    found += [_DEFAULT[-1]] if "redirect" not in shapes else []
    return tuple(_marked(endpoint) for endpoint in dict.fromkeys(found))


def is_link(entity: Entity) -> bool:
    """Whether an entity of a plan is a shortener's."""
    return entity.noun == NOUN and all(entity.has(field.name) for field in LINK.fields[:3])


def shape(endpoint: Endpoint) -> Shape | None:
    """Say what a route does in a shortener; None where it is like any other."""
    segments = [part for part in endpoint.path.strip("/").split("/") if not re.fullmatch(r"api|v\d+|", part)]
    literals = [part for part in segments if not part.startswith("{")]
    if len(literals) == len(segments):
        is_new = endpoint.method == "POST" and len(segments) == 1 and not routes.is_service(segments[0])
        is_list = endpoint.method == "GET" and segments in (["urls"], ["links"])
        return "shorten" if is_new else "list" if is_list else None
    if routes.parameters(endpoint.path) != ("code",):
        return None
    if endpoint.method == "GET":
        follows = segments[-1] == "{code}" and set(literals) <= _BEFORE_CODES
        return "redirect" if follows else "read"
    return "delete" if endpoint.method == "DELETE" else None


def _with_code(endpoint: Endpoint) -> Endpoint:
    """Call the one parameter of a path what the column is called, unless it is a row's number."""
    names = routes.parameters(endpoint.path)
    if len(names) != 1 or (re.search(r"/links?/{(link_)?id}", endpoint.path)):
        return endpoint
    return Endpoint(endpoint.method, endpoint.path.replace(f"{{{names[0]}}}", "{code}"))


def _marked(endpoint: Endpoint) -> Endpoint:
    return Endpoint(endpoint.method, endpoint.path, LINK.name if shape(endpoint) else "")
