"""A bug in somebody else's code, planted where the project's own tests meet it: to see repair at work."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import PurePosixPath

FLAW = 'raise RuntimeError("a flaw, planted by the simulated provider")'


def flawed_path(paths: Iterable[str]) -> str | None:
    """Return the first Python file that a test file is named after: app/routers/notes.py for tests/test_notes.py."""
    files = [PurePosixPath(path) for path in paths if path.endswith(".py")]
    tested = {file.stem.removeprefix("test_") for file in files if file.stem.startswith("test_")}
    return next((str(file) for file in files if file.stem in tested), None)


def with_flaw(code: str) -> str:
    """Return the module with an error raised at the start of its first public function; unchanged if it has none."""
    functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    public = [node for node in functions if not node.name.startswith("_")]
    if not public:
        return code
    body = public[0].body
    said = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    first = body[1] if said and len(body) > 1 else body[0]
    line = first.lineno - 1
    lines = code.splitlines(keepends=True)
    return "".join([*lines[:line], f"{' ' * first.col_offset}{FLAW}\n", *lines[line:]])
