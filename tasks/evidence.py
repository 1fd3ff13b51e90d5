"""What a program said, in a form that is the same when it says it again: for prompts, cache keys, golden files."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

from tasks.sandbox.errand import PROJECT, VENV

MOST = 4_000
"""Characters of evidence that are kept: the head and the tail, of which the tail has more."""

_LOOKED_AT = 64_000
"""Characters of what a program said that are looked at."""
_LEFT_OUT = "\n… the middle is left out …\n"

_VARYING = (
    (re.compile(r"\x1b\[[0-9;]*[A-Za-z]"), ""),
    (re.compile(r"\b0x[0-9a-fA-F]{4,}\b"), "0x…"),
    (re.compile(r"/tmp/pytest-of-\w+/pytest-\d+"), "/tmp/pytest"),  # noqa: S108 - read, not used
    (re.compile(r"/tmp/tmp[a-z0-9_]{8}\b"), "/tmp/…"),  # noqa: S108
    (re.compile(r"\b\d+(?:\.\d+)?(?:e-?\d+)? ?(?:s|ms|µs|us|ns|seconds?)\b(?: \(\d+:\d\d:\d\d\))?"), "… s"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b(127\.0\.0\.1|localhost):\d{5}\b"), r"\1:…"),
)


def normalised(text: str) -> str:
    """The text without times, addresses, and names of temporary folders; Python's own folder is `<python>`."""
    text = capped(text, _LOOKED_AT)
    for prefix in {sys.base_prefix, str(Path(sys.base_prefix).resolve())}:
        if prefix != "/usr":
            text = text.replace(prefix, "<python>")
    text = text.replace(f"{PROJECT}/", "").replace(f"{VENV}/", "<venv>/")
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    printable = (char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    return "\n".join(line.rstrip() for line in "".join(printable).strip().splitlines())


def capped(text: str, most: int = MOST) -> str:
    """The text, or its head and tail with a word that something is left out."""
    if len(text) <= most:
        return text
    head = most // 4
    tail = most - head - len(_LEFT_OUT)
    return f"{text[:head]}{_LEFT_OUT}{text[-tail:]}"


def files_named(text: str, known: Collection[str]) -> tuple[str, ...]:
    """The project's files that a text names, in the order in which it first does."""
    words = (word.removeprefix("./").rstrip(".") for word in re.findall(r"[\w./-]+", text))
    return tuple(dict.fromkeys(word for word in words if word in known))
