"""Where the running `orch up` is: a file that says how to reach its Redis, valid while its folder is locked.

The lock is the process's own, so that a pointer outlives nobody: the kernel frees it, however the process ends.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from orchestrator.atomic import locked, write_atomic


def home(runs_dir: Path) -> Path:
    """The folder of the `orch up` for these runs: the data of its Redis, the logs, the pointer."""
    return runs_dir.absolute() / ".up"


def running(runs_dir: Path) -> str | None:
    """URL of the Redis of the `orch up` that runs for these runs; None when none does."""
    folder = home(runs_dir)
    with suppress(OSError):
        if folder.stat().st_uid == os.getuid() and locked(folder):
            return _file(folder).read_text()
    return None


def write(folder: Path, url: str) -> None:
    """Say where Redis is, to this user alone."""
    write_atomic(_file(folder), url.encode(), 0o600)


def last(folder: Path) -> str | None:
    """What the pointer says, whether or not its process lives."""
    with suppress(OSError):
        return _file(folder).read_text()
    return None


def remove(folder: Path) -> None:
    """Say nothing any more."""
    _file(folder).unlink(missing_ok=True)


def _file(folder: Path) -> Path:
    return folder / "redis-url"
