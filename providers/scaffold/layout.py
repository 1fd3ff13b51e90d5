"""Laying out Python as `ruff format` would: calls that fit on a line or do not, imports from the names used."""

from __future__ import annotations

import ast
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping

WIDTH = 100
IMPORTS = "# imports\n"

_STANDARD = {"collections.abc", "contextlib", "datetime", "os", "pathlib", "typing"}


def call(opening: str, arguments: Iterable[str], closing: str = ")", indent: int = 0) -> str:
    """Lay out `opening(arguments)closing` on one line where that fits, else one argument a line."""
    arguments, margin = list(arguments), " " * indent
    line = f"{opening}({', '.join(arguments)}{closing}"
    if len(margin) + len(line) <= WIDTH or not arguments:
        return line
    inner = "".join(f"{margin}    {argument},\n" for argument in arguments)
    return f"{opening}(\n{inner}{margin}{closing}"


def listing(items: Iterable[str], indent: int = 0) -> str:
    """Lay out a dict from its pairs."""
    items, margin = list(items), " " * indent
    line = f"{{{', '.join(items)}}}"
    if len(margin) + len(line) <= WIDTH - 40:
        return line
    return "{\n" + "".join(f"{margin}    {item},\n" for item in items) + f"{margin}}}"


def literal(text: str) -> str:
    """Write a string in the quotes that `ruff format` would choose."""
    plain = printable(text).replace("\\", "\\\\")
    if '"' in plain and "'" not in plain:
        return f"'{plain}'"
    return '"' + plain.replace('"', '\\"') + '"'


def printable(text: str) -> str:
    """Return the text on one line without control, format and surrogate characters."""
    shown = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    return " ".join(shown.split())


def prose(text: str) -> str:
    """Return the text wrapped, without anything that could end a docstring."""
    harmless = printable(text).translate({ord("\\"): "/", ord('"'): "'", ord("`"): "'"})
    return "\n".join(textwrap.wrap(harmless, WIDTH - 5))


def with_imports(source: str, homes: Mapping[str, str]) -> str:
    """Put the imports of the names that the source uses in the place of its last `# imports`.

    Args:
        source: A module with the line `# imports`, or one that has its imports.
        homes: The module of each name that may need one; "" for a module of that name.
    """
    before, marker, after = source.rpartition(IMPORTS)
    if not marker:
        return source
    nodes = list(ast.walk(ast.parse(source)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - _bound(nodes)
    modules: dict[str, list[str]] = {}
    for name in sorted(used & homes.keys(), key=_isort_key):
        modules.setdefault(homes[name], []).append(name)
    block = "\n\n".join(filter(None, (_block(modules, group) for group in range(3))))
    return f"{before}{block}\n{after}"


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that a module or its functions give themselves."""
    names = set()
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


def _block(modules: Mapping[str, list[str]], group: int) -> str:
    lines = [_import(module, names) for module, names in sorted(modules.items()) if _group(module) == group]
    return "\n".join(sorted(lines, key=lambda line: line.startswith("from ")))


def _import(module: str, names: list[str]) -> str:
    if not module:
        return "\n".join(f"import {name}" for name in names)
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _group(module: str) -> int:
    return 0 if module in _STANDARD else 2 if module.partition(".")[0] == "app" else 1


def _isort_key(name: str) -> tuple[int, str]:
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


def tidy(source: str) -> str:
    """Set the blank lines: two around what stands at the margin of a module, one at most inside, none at the end."""
    spaced = re.sub(r"\n{3,}", "\n\n\n", source.strip("\n") + "\n")
    apart = re.sub(r"\n{2,}(?=(?:@|def |class |async def ))", "\n\n\n", spaced)
    return re.sub(r"\n{3,}(?= )", "\n\n", apart)
