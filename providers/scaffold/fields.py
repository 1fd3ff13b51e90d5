"""Fields: their types from their names, lists of them in prose, and what an entity has when nobody says."""

from __future__ import annotations

import re

from providers.scaffold import lexicon, words
from providers.scaffold.nouns import Field

MOST = 20

_TYPE_OF_NAME = (
    ("datetime", r"(.+_)?(at|timestamp|datetime)|.+_time"),
    ("date", r"(.+_)?(date|on|birthday|deadline|datum)"),
    ("boolean", r"(is|has|can)_.+|done|completed?|finished|active|enabled|published|archived|paid|erledigt"),
    (
        "integer",
        r"(.+_)?(year|count|quantity|qty|age|id|pages|stock|priority|rank|score|rating|position|size|jahr)",
    ),
    (
        "number",
        r"(.+_)?(price|amount|total|cost|weight|height|width|latitude|longitude|lat|lon|lng|balance|salary|rate"
        r"|percent|percentage|temperature|preis|betrag)",
    ),
    (
        "text",
        r"(.+_)?(body|content|text|description|bio|summary|message|details|comment|notes|inhalt|beschreibung)",
    ),
)
_STAMPS = ("created_at", "updated_at")


def guess_type(name: str) -> str:
    """Return the plan's type for a field of that name."""
    return next((kind for kind, pattern in _TYPE_OF_NAME if re.fullmatch(pattern, name)), "string")


def defaults(noun: str) -> tuple[Field, ...]:
    """Return the fields of an entity about which nothing is said."""
    last = noun.rpartition("_")[2]
    if last in lexicon.NOTE_LIKE:
        return (Field("title"), Field("body", "text"))
    if last in lexicon.TASK_LIKE or noun in lexicon.TASK_LIKE:
        return (Field("title"), Field("done", "boolean", required=False))
    if last in lexicon.PERSON_LIKE:
        return (Field("name"), Field("email"))
    return (Field("name"), Field("description", "text", required=False))


def listed(text: str, owner: str) -> tuple[Field, ...]:
    """Read a list such as `a title, a body and optional tags (string)`; it ends where an item is no field."""
    found: dict[str, Field] = {}
    grouped = re.sub(r"\s*\(([^()]{0,60})\)", lambda kind: f" : {kind[1].replace(',', ' ')}", text)
    for item in re.split(r",|\band\b|\bund\b|\bsowie\b|&|\+", grouped)[: MOST * 2]:
        field, more = _field(item, owner)
        if field and len(found) < MOST:
            found.setdefault(field.name, field)
        if not more:
            break
    return tuple(found.values())


def are_known(listed_fields: tuple[Field, ...]) -> bool:
    """Whether there are some, and each has a name that fields often have."""
    return bool(listed_fields) and all(
        field.name in lexicon.FIELD_NAMES or guess_type(field.name) != "string" for field in listed_fields
    )


def _field(item: str, owner: str) -> tuple[Field | None, bool]:
    """Read one item of a list; also say whether the list may go on after it."""
    named, _, kinds = item.strip().lower().partition(":")
    tokens = [token.strip("`'\"*-_.") for token in named.split()[:12]]
    minor = lexicon.ARTICLES | lexicon.FIELD_QUALIFIERS if len(tokens) > 1 else frozenset()
    kept = [token for token in tokens if token and token not in minor]
    if not kept or kept == ["id"]:
        return None, True
    end = next((at for at, token in enumerate(kept) if token in lexicon.FIELD_ENDS), len(kept))
    name = words.field_name(" ".join(kept[:end]), owner)
    if not name or end > 3 or not lexicon.NOT_FIELDS.isdisjoint(kept[:end]):
        return None, False
    stated = (lexicon.TYPE_WORDS[word] for word in re.findall(r"\w+", kinds) if word in lexicon.TYPE_WORDS)
    kind = next(stated, guess_type(name))
    optional = "optional" in tokens or "optional" in kinds or kind == "boolean" or name in _STAMPS
    return Field(name, kind, not optional), end == len(kept)
