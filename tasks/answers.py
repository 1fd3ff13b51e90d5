"""Reading a file out of a model's answer, strictly, and checking that it can be the file that was asked for."""

from __future__ import annotations

import ast
import re
import warnings

_FENCE = re.compile(r"^(?P<fence>`{3,})[^`\n]*\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)


def only_block(text: str, *, fence: int = 3) -> str:
    """Return the content of the one block that is fenced by at least `fence` backticks; prose around it is dropped.

    A block inside a longer fence is part of that one's content.

    Raises:
        ValueError: There is no such block, or a second one.
    """
    blocks = [match["body"] for match in _FENCE.finditer(text) if len(match["fence"]) >= fence]
    if len(blocks) != 1:
        raise ValueError(f"expected one fenced block, found {len(blocks) or 'none'}")
    return blocks[0]


def syntax_error(path: str, content: str) -> str | None:
    """Say why a file of that name cannot be read by the language that its ending names; None when it can."""
    if not path.endswith(".py"):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(content, path)
    except SyntaxError as error:
        return f"{path} line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{path}: {error or type(error).__name__}"
    return None
