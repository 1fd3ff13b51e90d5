"""The only way for what a model wrote onto a disk: whole files, below one root, and nowhere else."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Literal

from orchestrator.atomic import is_temp, lock, opened, replace_at, sweep
from orchestrator.paths import UnsafePath, case_key, safe_relative, shown

Reason = Literal["created", "updated", "nochange"]

MAX_FILE_BYTES = 10 * 1024 * 1024

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a fifo must not make us wait for its writer
_MODE_BITS = 0o775  # no setuid, setgid, sticky; not writable by the world

# Linux says ENOTDIR, macOS ELOOP, of a symbolic link where a folder is needed.
_REFUSALS = {
    errno.ENOTDIR: "goes through {}, which is a file or a symbolic link; go through folders",
    errno.ELOOP: "goes through {}, which is a symbolic link; go through folders",
    errno.EISDIR: "is a folder; name a file",
}


class ContentRefused(ValueError):
    """The content may not be stored: too long, or no Unicode text. Rebuilds from its `args`."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"file {shown(self.path)} {self.why}"


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What is now on disk at `path`, and whether this write put it there."""

    path: str
    sha256: str
    size_bytes: int
    wrote: bool
    reason: Reason


class FileStore:
    """Files below one folder.

    Paths are checked by `safe_relative`, then walked one open directory at a time without following a link:
    no link, whenever it appears, leads out of `root`. `root` itself is trusted, may be a link, and is made by
    the first write. One writer at a time for each root.

    Raises UnsafePath for a path that is refused, by its name or by what is there. A real disk error (full,
    not permitted, not found) stays an OSError.
    """

    def __init__(self, root: Path, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.root = root.absolute()
        self.max_file_bytes = max_file_bytes

    def safe_write(self, path: str, content: str | bytes, mode: int = 0o644) -> WriteResult:
        """Make `path` hold the content (text as UTF-8), with the permission bits of `mode`.

        Atomic and durable like `write_atomic`; what already is as wanted is not touched. ContentRefused where
        the content is too long or not encodable.
        """
        relative = safe_relative(path)
        data = self._bytes(path, content)
        self.root.mkdir(parents=True, exist_ok=True)
        with (
            _border(path),
            lock(self.root) as root,
            _walk(root, relative.parts[:-1], make=True) as folder,
        ):
            reason = _put(folder, relative.name, data, mode & _MODE_BITS)
        return WriteResult(path, hashlib.sha256(data).hexdigest(), len(data), reason != "nochange", reason)

    def read(self, path: str) -> bytes:
        """Return the content of a file; ContentRefused where it is longer than may be written."""
        with self._open(path) as file:
            data = file.read(self.max_file_bytes + 1)
        self._check_size(path, len(data))
        return data

    def sha256(self, path: str) -> str:
        """Return the hex digest of a file of any length."""
        with self._open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def verify(self, path: str, sha256: str) -> bool:
        """Whether `path` is a plain file with this content; False, too, for what is missing or refused."""
        try:
            return self.sha256(path) == sha256
        except (FileNotFoundError, UnsafePath):
            return False

    def files(self) -> Iterator[str]:
        """Give the paths of all regular files below the root, sorted; none where there is no root.

        Links are not followed and temporary files left out. Files that others put here are given too, under
        names that `safe_relative` may refuse.
        """
        try:
            with opened(self.root) as root:
                found = sorted(_regular_files(root))
        except FileNotFoundError:
            return
        yield from found

    @contextmanager
    def _open(self, path: str) -> Iterator[BufferedReader]:
        relative = safe_relative(path)
        with (
            opened(self.root) as root,
            _border(path),
            _walk(root, relative.parts[:-1]) as folder,
            _open_file(folder, relative.name) as file,
        ):
            yield file

    def _bytes(self, path: str, content: str | bytes) -> bytes:
        try:
            data = content.encode() if isinstance(content, str) else content
        except UnicodeEncodeError as error:
            why = f"has half a surrogate pair at character {error.start}; give whole Unicode text"
            raise ContentRefused(path, why) from error
        self._check_size(path, len(data))
        return data

    def _check_size(self, path: str, size: int) -> None:
        if size > self.max_file_bytes:
            raise ContentRefused(path, f"has more than {self.max_file_bytes} bytes, the most that is allowed")


class _Refused(Exception):
    """Becomes UnsafePath at the border, where the whole path is known."""


@contextmanager
def _border(path: str) -> Iterator[None]:
    """Translate what means "this path is refused" into UnsafePath."""
    try:
        yield
    except _Refused as error:
        raise UnsafePath(path, str(error)) from error
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise UnsafePath(path, _REFUSALS[error.errno].format(shown(str(error.filename)))) from error


@contextmanager
def _walk(root: int, parts: Iterable[str], *, make: bool = False) -> Iterator[int]:
    """Walk down from an open directory; `make` makes what is missing and tidies on the way."""
    here = os.dup(root)
    try:
        for part in parts:
            if make:
                _make_folder(here, part)
            there = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def _make_folder(parent: int, name: str) -> None:
    _tidy(parent, name)
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
        os.fsync(parent)


def _tidy(folder: int, name: str) -> None:
    """Sweep a folder that is about to get `name`; refuse it beside one that differs only in case."""
    key = case_key(name)
    for other in sweep(folder):
        if other != name and case_key(other) == key:
            raise _Refused(
                f"differs only in case from {shown(other)}, which is there; use that name or another"
            )


def _put(folder: int, name: str, data: bytes, mode: int) -> Reason:
    _tidy(folder, name)
    try:
        old = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        replace_at(folder, name, data, mode)
        return "created"
    _require_regular(old)
    if stat.S_IMODE(old.st_mode) == mode and old.st_size == len(data):
        with _open_file(folder, name) as file:
            if file.read(len(data) + 1) == data:
                return "nochange"
    replace_at(folder, name, data, mode)
    return "updated"


def _open_file(folder: int, name: str) -> BufferedReader:
    # Looked at before, because opening a device may already act on it; and after, because it may be swapped.
    _require_regular(os.lstat(name, dir_fd=folder))
    file = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
    try:
        _require_regular(os.fstat(file.fileno()))
    except _Refused:
        file.close()
        raise
    return file


def _require_regular(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _Refused("is a symbolic link; remove it, or name another file")
    if stat.S_ISDIR(found.st_mode):
        raise _Refused(_REFUSALS[errno.EISDIR])
    if not stat.S_ISREG(found.st_mode):
        raise _Refused("is a device, a pipe or a socket; name another file")


def _regular_files(root: int) -> Iterator[str]:
    for folder, _, names, descriptor in os.fwalk(".", dir_fd=root, onerror=_unless_gone):
        for name in names:
            with suppress(FileNotFoundError):
                if not is_temp(name) and stat.S_ISREG(os.lstat(name, dir_fd=descriptor).st_mode):
                    yield str(PurePosixPath(folder, name))


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
