"""Entities that prose speaks of: `a note has a title`, `users (name, email)`, `manage tasks`, `a blog`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from providers.scaffold import fields, lexicon, words
from providers.scaffold.nouns import Field

MOST = 10

_Described = dict[str, tuple[Field, ...]]

_WORD = re.compile(r"[^\W\d_][\w'-]{0,60}")
_SUBJECT = r"(?P<subject>[^\W\d_][\w-]{1,60})[*`]?"
_LIST = r"(?P<list>[^.;!?\n]{1,400})"
_HAS = re.compile(
    rf"{_SUBJECT}(?: which| that)? (?:has|have|with|having|contains?|consists? of|includes?|including|stores?"
    rf"|hat|haben|mit|besteht aus) {_LIST}",
    re.IGNORECASE,
)
_BRACKETS = re.compile(rf"{_SUBJECT} ?[(:] ?(?P<list>[^.;!?\n()]{{3,400}})(?:\)|$)", re.MULTILINE)
_FIELDS = re.compile(
    rf"\b(?:fields|attributes|columns|properties|felder)\b ?(?:are|:|=|sind) ?{_LIST}", re.IGNORECASE
)
_MANAGES = re.compile(
    r"\b(?:manag(?:e|es|ing)|track(?:s|ing)?|stor(?:e|es|ing)|keep(?:s|ing)? track of|organi[sz](?:e|es|ing)"
    r"|verwalte\w*|crud for) (?P<nouns>[^.;!?\n]{1,200})",
    re.IGNORECASE,
)
_FOR = re.compile(r"\b(?:for|of|für|von) (?P<nouns>[^.;:!?\n()]{1,80})", re.IGNORECASE)
_BELONGS = re.compile(
    r"(?P<child>[\w-]{2,60}) belongs? to (?:(?:an?|one|the|its|exactly one) )?(?P<owner>[\w-]{2,60})",
    re.IGNORECASE,
)


def spoken(text: str) -> _Described:
    """Return the nouns that the text speaks of as things to keep, each with the fields it names, if any.

    Fields that the text lists without saying whose they are go to the first.
    """
    plain = _plain(text)
    described = _described(plain)
    nouns = [*described, *_managed(plain, described)]
    nouns = nouns or [*_named_by_app(plain)] or [*_in_phrases(_FOR, plain)] or [*_familiar(plain)]
    found = {noun: described.get(noun, ()) for noun in list(dict.fromkeys(nouns))[:MOST]}
    for first in list(found)[:1]:
        found[first] = found[first] or unowned(plain, first)
    return found


def unowned(text: str, owner: str) -> tuple[Field, ...]:
    """Return fields that the text gives to nobody: `fields: a, b`, or `an app with title and body`."""
    for match in _FIELDS.finditer(text):
        if found := fields.listed(match["list"], owner):
            return found
    for match in _HAS.finditer(text):
        found = fields.listed(match["list"], owner)
        if match["subject"].lower() in lexicon.APP and fields.are_known(found):
            return found
    return ()


def owners(text: str) -> Iterator[tuple[str, str]]:
    """Yield what belongs to what: (post, user)."""
    for match in _BELONGS.finditer(_plain(text)):
        yield _noun(match["child"]), _noun(match["owner"])


def _plain(text: str) -> str:
    spaced = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r"\b(to)[- ](dos?)\b", r"\1\2", spaced, flags=re.IGNORECASE)


def _described(text: str) -> _Described:
    found: _Described = {}
    for pattern in (_HAS, _BRACKETS):
        for match in pattern.finditer(text):
            noun = _noun(match["subject"])
            listed = fields.listed(match["list"], noun) if noun else ()
            if len(listed) > 1 or (fields.are_known(listed) and listed[0].name not in lexicon.TYPE_WORDS):
                found.setdefault(noun, listed)
    return found


def _managed(text: str, described: _Described) -> Iterator[str]:
    """Yield what is managed or stored, apart from what are fields of something else."""
    fields_named = {field.name for listed in described.values() for field in listed}
    for noun in _in_phrases(_MANAGES, re.sub(r"\([^()]{0,400}\)", "", text)):
        if fields_named.isdisjoint({noun, words.plural(noun)}):
            yield noun


def _in_phrases(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """Yield the plural nouns at the heads of what a verb governs: `manage books and their authors`."""
    for match in pattern.finditer(text):
        for phrase in re.split(r"[,:&]|\band\b|\bund\b", match["nouns"])[:6]:
            nouns = [noun for word in _run(phrase) if words.is_plural(word.lower()) and (noun := _noun(word))]
            yield from nouns[-1:]


def _run(phrase: str) -> list[str]:
    """Return the words of the noun phrase at the start: up to a stop word that is not its article."""
    run: list[str] = []
    for word in _WORD.findall(phrase):
        if word.lower() not in lexicon.STOPS:
            run.append(word)
        elif run:
            break
    return run


def _named_by_app(text: str) -> Iterator[str]:
    """Yield the noun before a word such as `app`, as in `a FastAPI notes app`; and themes like `a blog`."""
    for clause in re.split(r"[.;:!?\n,()]", text):
        tokens = [token for word in _WORD.findall(clause) for token in word.lower().split("-")]
        for at, token in enumerate(tokens):
            if token in lexicon.APP and (noun := _nearest(tokens[max(0, at - 6) : at])):
                yield noun
        yield from (lexicon.THEMES[token] for token in tokens if token in lexicon.THEMES)


def _nearest(tokens: list[str]) -> str:
    """Return the last of the words that names a thing, unless an article or the like comes after it."""
    for token in reversed(tokens):
        if token in lexicon.STOPS:
            return ""
        if noun := _noun(token):
            return lexicon.THEMES.get(noun, noun)
    return ""


def _familiar(text: str) -> Iterator[str]:
    known = lexicon.FAMILIAR | lexicon.NOTE_LIKE | lexicon.TASK_LIKE | lexicon.PERSON_LIKE
    for word in _WORD.findall(text):
        if (noun := _noun(word)) in known:
            yield noun


def _noun(word: str) -> str:
    """Return the singular of a word that can name an entity, else ""."""
    lower = word.lower()
    if len(lower) < 3 or lower in lexicon.STOPS | lexicon.GENERIC | lexicon.APP:
        return ""
    return words.singular(words.snake(word))
