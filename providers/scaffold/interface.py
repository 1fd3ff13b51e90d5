"""What a generated file offers to the others: its public names with their signatures, read off its code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

LONGEST = 2_000


def interface_of(path: str, text: str) -> str:
    """Return the public names of a module, one a line; "" for tests, and for what is no Python."""
    if not path.endswith(".py") or path.startswith("tests/"):
        return ""
    names = "\n".join(line for node in ast.parse(text).body for line in _offered(node))
    return names if len(names) <= LONGEST else names[: LONGEST - 1].rpartition("\n")[0] + "\n…"


def _offered(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name, decorator_list=[]) if not name.startswith("_"):
            yield _signature(node)
        case ast.ClassDef(name=name) if not name.startswith("_"):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield f"class {name}({bases})" if bases else f"class {name}"
        case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
            yield name


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"
