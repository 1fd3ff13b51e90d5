"""Reading a file out of a model's answer, strictly, and checking that it can be the file that was asked for."""

from __future__ import annotations

import ast
import re
import warnings

_FENCE = re.compile(r"(?P<ticks>`{3,})(?P<info>[^`\n]*)")


def only_block(text: str, *, fence: int = 3) -> str:
    """Return the content of the one block that is fenced by at least `fence` backticks; prose around it is dropped.

    A block inside a longer fence is part of that one's content. One pass over the lines, as CommonMark has it: a
    fence is closed by one that is at least as long and says nothing else.

    Raises:
        ValueError: There is no such block, or a second one, or one that is not closed.
    """
    blocks: list[str] = []
    opened, body = 0, [""]
    for line in text.replace("\r\n", "\n").split("\n"):
        found = _FENCE.fullmatch(line)
        ticks, info = (len(found["ticks"]), found["info"].strip()) if found else (0, "")
        if not opened and ticks:
            opened, body = ticks, []
        elif opened and ticks >= opened and not info:
            if opened >= fence:
                blocks.append("".join(f"{one}\n" for one in body))
            opened = 0
        elif opened and ticks >= opened:
            raise ValueError(
                "a fence is opened within another; fence the whole file with more backticks than it has"
            )
        elif opened:
            body.append(line)
    if len(blocks) != 1:
        raise ValueError(f"expected one fenced block, found {len(blocks) or 'none'}")
    if opened:
        raise ValueError(
            "a fence is opened and not closed; fence the whole file with more backticks than it has"
        )
    return blocks[0]


def syntax_error(path: str, content: str) -> str | None:
    """Say why a file of that name cannot be read by the language that its ending names; None when it can."""
    if not path.endswith(".py"):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(content, path)
    except SyntaxError as error:
        where = f"{path} line {error.lineno}" if error.lineno else path
        return f"{where}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{path}: {error or type(error).__name__}"
    return None
