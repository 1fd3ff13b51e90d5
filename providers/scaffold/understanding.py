"""From a description in prose to entities and endpoints. Rules, no model: what no rule sees is not built."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from providers.scaffold import entities as prose
from providers.scaffold import fields, routes, short, words
from providers.scaffold.nouns import Endpoint, Entity, Field

LONGEST = 100_000

_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a description asks for, as far as the rules see it."""

    goal: str
    entities: tuple[Entity, ...]
    endpoints: tuple[Endpoint, ...]


def understand(description: str) -> Understanding:
    """Find the entities and endpoints of a description; an `Item` with full CRUD where it names none."""
    text = unicodedata.normalize("NFC", description[:LONGEST])
    endpoints, rest = routes.find(text)
    if short.is_asked(text):
        return Understanding(goal(text), (short.LINK,), short.endpoints(endpoints))
    spoken = prose.spoken(rest)
    nouns = routes.resources(endpoints, spoken) if endpoints else [*spoken] or ["item"]
    nouns = _distinct(nouns)[: prose.MOST]
    wanted = _named(endpoints, nouns) if endpoints else _crud(nouns)
    entities = _with_owners(_entities(nouns, spoken, rest), [*prose.owners(rest), *_nested(wanted)])
    return Understanding(goal(text), tuple(_with_key(entity, wanted) for entity in entities), wanted)


def goal(text: str) -> str:
    """Return the first sentence on one line, at most 200 characters, without control characters."""
    kept = "".join(
        " " if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} else char for char in text[:2_000]
    )
    first = re.split(r"(?<=[.!?])\s", " ".join(kept.split()), maxsplit=1)[0]
    return first if len(first) <= 200 else first[:199].rstrip() + "…"


def _distinct(nouns: list[str]) -> list[str]:
    """Leave out nouns whose table would have the name of an earlier one's."""
    return list({words.plural(noun): noun for noun in reversed(nouns)}.values())[::-1]


def _named(endpoints: list[Endpoint], nouns: list[str]) -> tuple[Endpoint, ...]:
    """Return the endpoints asked for, one of each method and form of path."""
    distinct = {
        (endpoint.method, re.sub(r"{\w+}", "{}", endpoint.path)): endpoint
        for endpoint in reversed([routes.renamed(endpoint, nouns) for endpoint in endpoints])
    }
    return tuple(reversed(distinct.values()))[: routes.MOST]


def _crud(nouns: list[str]) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(method, f"/{words.plural(noun)}{item}", words.class_name(noun))
        for noun in nouns
        for item, methods in (("", ("POST", "GET")), (f"/{{{noun}_id}}", ("GET", "PUT", "PATCH", "DELETE")))
        for method in methods
    )


def _entities(nouns: list[str], spoken: Mapping[str, tuple[Field, ...]], text: str) -> list[Entity]:
    found = [Entity(noun, spoken.get(noun, ())) for noun in nouns]
    if found and not found[0].fields:
        found[0] = Entity(nouns[0], prose.unowned(text, nouns[0]))
    return [
        entity if entity.fields else Entity(entity.noun, fields.defaults(entity.noun)) for entity in found
    ]


def _nested(endpoints: Iterable[Endpoint]) -> Iterator[tuple[str, str]]:
    """Yield what the paths say belongs to what: `/users/{user_id}/posts` has (post, user)."""
    for endpoint in endpoints:
        if routes.shape(endpoint) != "echo":
            nouns = [part.noun for part in routes.parts(endpoint.path) if part.parameter or part.literal]
            yield from ((child, owner) for owner, child in itertools.pairwise(nouns))


def _with_owners(entities: Sequence[Entity], pairs: Iterable[tuple[str, str]]) -> list[Entity]:
    """Give each entity a reference to what it belongs to, never in a circle."""
    known = {entity.noun: entity for entity in entities}
    owners: dict[str, set[str]] = {noun: set() for noun in known}
    for child, owner in pairs:
        if child in known and owner in known and child not in _above(owner, owners):
            owners[child].add(owner)
            known[child] = known[child].with_field(Field(f"{owner}_id", "integer"))
    return list(known.values())


def _above(noun: str, owners: Mapping[str, set[str]]) -> set[str]:
    return {noun}.union(*(_above(owner, owners) for owner in owners[noun]))


def _with_key(entity: Entity, endpoints: Iterable[Endpoint]) -> Entity:
    """Give the entity the attribute by which paths name it, where that is not its id: `/links/{code}`."""
    for endpoint in endpoints:
        for part in routes.parts(endpoint.path):
            if part.noun == entity.noun and part.parameter and not part.by_id:
                entity = entity.with_field(Field(part.parameter, fields.guess_type(part.parameter)))
    return entity
