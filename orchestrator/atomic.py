"""A file whole or not at all, and one writer at a time.

For paths that are our own (manifest, cache entries). What a model named goes through `filestore`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator.paths import TEMP_PREFIX


@contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold `path` alone among all threads and processes of this machine; gives its open descriptor.

    A directory is locked itself and nothing is left in it. Any other path names a lock file, which is made
    and stays. Waits as long as it takes; not reentrant. The kernel frees the lock of a process that died.
    """
    kind = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, kind, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield descriptor
        finally:
            # Closing alone would leave it locked by a copy in a child that another thread forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def locked(folder: Path) -> bool:
    """Whether somebody holds the lock of this directory now; also when it is gone."""
    with suppress(OSError), opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Give the open descriptor of a directory."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Like `write_atomic`, without waiting for the disk: a power cut may lose the file, or leave it empty.

    For files that tell by their content whether they are whole, and can be made again.
    """
    temp = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
    temp.write_bytes(data)
    temp.replace(path)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make `path` a file with this content and exactly this mode; its folder must exist.

    After return it outlives a power cut. At any moment, for any reader, and after kill -9, `path` is either
    as it was or wholly new; the temporary file of a killed writer is removed by the next one in that folder.
    """
    with opened(path.parent) as folder:
        sweep(folder)
        replace_at(folder, path.name, data, mode)


def replace_at(folder: int, name: str, data: bytes, mode: int) -> None:
    """Like `write_atomic`, for `name` in an open directory. A link is replaced, never written through."""
    temp, file = _new_temp(folder)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            os.rename(temp, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temp, dir_fd=folder)
        raise
    os.fsync(folder)


def is_temp(name: str) -> bool:
    """Whether a directory entry is a half-written file of ours."""
    return name.startswith(TEMP_PREFIX)


def sweep(folder: int) -> list[str]:
    """Remove what killed writers left in the open directory, not what living ones hold. Give the rest."""
    names = os.listdir(folder)
    for name in filter(is_temp, names):
        # What cannot be removed now is in nobody's way.
        with suppress(OSError):
            _remove_stale(folder, name)
    return [name for name in names if not is_temp(name)]


def _remove_stale(folder: int, name: str) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(descriptor)


def _new_temp(folder: int) -> tuple[str, BinaryIO]:
    """Make a file that is locked for as long as it is open: the sign of a living writer."""
    while True:
        name = f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        file = os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return name, file
        file.close()  # a sweep was quicker than our lock
