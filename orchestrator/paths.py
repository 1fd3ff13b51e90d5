"""Which relative paths may be written below a folder of ours, on every platform that may come to hold it.

A Linux mirror may feed a Mac's disk or a Windows share, so a name must mean the same file on all three.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath

MAX_PART_BYTES = 200  # file systems allow 255; the rest is for suffixes that tools add
MAX_PATH_BYTES = 1024  # macOS PATH_MAX
MAX_DEPTH = 32
TEMP_PREFIX = ".orch-tmp-"  # half-written files of ours; no file of a project may be named so

_Check = tuple[Callable[[str], object], str]

# learn.microsoft.com/windows/win32/fileio/naming-a-file: devices, whatever the extension or case.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$|clock\$) *(\..*)?", re.IGNORECASE | re.DOTALL
)
# git runs what these hold as soon as somebody looks at the folder; git~1 is Windows' other name for .git.
_REPOSITORY = re.compile(r"\.git|git~1", re.IGNORECASE)

_WHOLE: tuple[_Check, ...] = (
    (lambda path: not path, "is empty; name a file, such as src/main.py"),
    (lambda path: not path.isascii(), "has a character that is not ASCII; use letters, digits, . _ and -"),
    (re.compile(r"[\x00-\x1f\x7f]").search, "has a NUL or another control character; leave it out"),
    (
        lambda path: path[0] in "/\\" or PureWindowsPath(path).drive,
        "is absolute; start at the project's folder",
    ),
    (lambda path: "\\" in path, "has a backslash; put / between folders"),
    (lambda path: len(path) > MAX_PATH_BYTES, f"is too long; {MAX_PATH_BYTES} bytes is the most"),
    (lambda path: path.count("/") >= MAX_DEPTH, f"is too deep; {MAX_DEPTH} names is the most"),
)
_PART: tuple[_Check, ...] = (
    (lambda part: not part, "has an empty name (a doubled or a last /); put one / between two names"),
    (lambda part: part in {".", ".."}, "has a . or .. in it; write the path that is meant"),
    (
        lambda part: part[-1] in ". ",
        "has a name that ends in a dot or a space, which Windows drops; end it otherwise",
    ),
    (lambda part: part[0] == "~", "has a name that begins with ~, a shell's home folder; begin it otherwise"),
    (
        re.compile(r'[<>:"|?*]').search,
        'has one of <>:"|?* in it, which Windows refuses; use letters, digits, . _ and -',
    ),
    (_DEVICE.fullmatch, "has a name that is a device on Windows, such as CON or nul.txt; choose another"),
    (_REPOSITORY.fullmatch, "goes into a git repository's own folder; choose another name"),
    (
        lambda part: part.lower().startswith(TEMP_PREFIX),
        f"has a name that begins with {TEMP_PREFIX}, which is ours",
    ),
    (
        lambda part: len(part) > MAX_PART_BYTES,
        f"has a name that is too long; {MAX_PART_BYTES} bytes is the most",
    ),
)


class UnsafePath(ValueError):
    """A path was refused; nothing was written. Rebuilds from its `args`, `path` and `why`."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"path {shown(self.path)} {self.why}"


def safe_relative(path: str) -> PurePosixPath:
    """Return the path, unchanged, if it stays below any root that it is joined to, on every platform.

    Raises:
        UnsafePath: It does not; the message says what is wrong and what would be right.
    """
    wrong = _first_wrong(_WHOLE, path) or next(
        filter(None, (_first_wrong(_PART, p) for p in path.split("/"))), None
    )
    if wrong:
        raise UnsafePath(path, wrong)
    return PurePosixPath(path)


def case_key(path: str) -> str:
    """Two paths with the same key are one file where case does not count (macOS, Windows)."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def shown(text: str) -> str:
    """Text of unknown origin for a message: one short line of ASCII, so no character in it can mislead."""
    return ascii(text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}")


def _first_wrong(checks: tuple[_Check, ...], text: str) -> str | None:
    return next((why for is_wrong, why in checks if is_wrong(text)), None)
