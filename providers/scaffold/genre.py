"""What sort of project a description asks for: a web service unless its words say that it is none."""

from __future__ import annotations

import re
from typing import Literal

from providers.scaffold import routes

Genre = Literal["web", "csv", "library"]

_NEGATED = re.compile(
    r"\b(?:no|not an?|without(?: an?| any)?|ohne|kein\w*|nicht)\s+(?:\w+[\s-]+){0,2}?"
    r"(?:web|http|rest|api|server|service|endpoints?|fastapi|flask|frontend|gui|ui)\w*(?:[\s-]+\w*(?:teil|part|server|app)\w*)?",
    re.IGNORECASE,
)
_WEB = re.compile(
    r"\b(?:fastapi|flask|django|starlette|rest(?:ful)?|endpoints?|http[\s-](?:api|service|server|endpoint)s?|openapi"
    r"|web[\s-]?(?:service|app|application|server|site|api|anwendung|dienst|seite|oberfläche|schnittstelle)\w*|backend)\b",
    re.IGNORECASE,
)
_CSV = re.compile(r"\bcsv\b", re.IGNORECASE)
_SQL = re.compile(r"\b(?:sqlite3?|sql|datenbank\w*|databases?)\b", re.IGNORECASE)
_CLI = re.compile(
    r"\b(?:cli|command[\s-]?lines?|kommandozeile\w*|befehlszeile\w*|konsole\w*|terminal\w*|shell|(?<![</])scripts?|skripte?)\b",
    re.IGNORECASE,
)
_LIBRARY = re.compile(
    r"\b(?:python|pure|utility|helper|programm|hilfs|standard|importable)\w*[\s-]+(?:\w+[\s-]+){0,2}?"
    r"(?:library|package|module|bibliothek|modul|paket)\b"
    r"|\b(?:library|package|module|bibliothek|modul|paket)\b"
    r"(?=\s+(?:that|which|with|for|to|of\s+(?:\w+\s+){0,2}?(?:functions|helpers|utilities|tools|routines)|providing|offering|called|named|mit|für|zum|zur|die|das|without|ohne)\b)"
    r"|\b\w*(?:programmbibliothek|funktionsbibliothek|hilfsbibliothek)\b|\bfunctions?\b|\bfunktion(?:en)?\b",
    re.IGNORECASE,
)
_LENDING = re.compile(
    r"\b(?:books?|members?|loans?|borrow\w*|lend\w*|readers?|bücher\w*|buch|ausleih\w*|leser\w*|mitglied\w*)\b",
    re.IGNORECASE,
)


def genre_of(description: str) -> Genre:
    """Say what sort of project is asked for.

    A service is named by its endpoints or by words such as REST; a CSV importer by its two formats; a library, and a
    tool for the command line, by name. A library with books in it is a service that lends them.
    """
    text = _NEGATED.sub(" ", description)
    if routes.find(text)[0] or _WEB.search(text):
        return "web"
    if _CSV.search(text) and _SQL.search(text):
        return "csv"
    if is_tool(text) or (_LIBRARY.search(text) and not _LENDING.search(text)):
        return "library"
    return "web"


def is_tool(description: str) -> bool:
    """Whether the project is to be used from the command line."""
    return bool(_CLI.search(description))
