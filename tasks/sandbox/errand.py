"""What is to be run, within which limits, and how it ended. Pure data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

PROJECT = "/project"
"""Where the working copy is, inside; in normalised texts also where there is no inside."""
VENV = "/venv"

End = Literal["exit", "time", "output", "memory", "processes", "entries", "cancelled", "broken"]
"""Why it ended: by itself, over a limit, because it was told to; "broken" is the sandbox's own failure."""


@dataclass(frozen=True)
class Limits:
    """What one errand may use. Sizes in bytes, times in seconds; all count for its whole tree unless they say else."""

    time_s: float = 120
    output: int = 1 << 20
    memory: int = 1 << 30
    """Anonymous and shared memory, looked at many times a second."""
    address_space: int = 4 << 30
    """Of one process: what makes a single huge allocation fail at once."""
    processes: int = 64
    threads: int = 256
    file: int = 64 << 20
    disk: int = 256 << 20
    """Of the working copy, where the disk is the sandbox's own; the temporary folder has a quarter of it."""
    entries: int = 50_000
    """Files and folders on that disk."""
    open_files: int = 256


@dataclass(frozen=True)
class Errand:
    """A Python command on a working copy of files.

    `arguments` follow the interpreter. `venv` is made visible read-only; None runs the interpreter as it is.
    """

    arguments: tuple[str, ...]
    files: Mapping[str, str]
    venv: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def limits_as_json(self) -> dict[str, float | None]:
        """The limits as the warden reads them."""
        return asdict(self.limits)


@dataclass(frozen=True)
class Ran:
    """How an errand ended. `code` is what the command returned, 128 + signal where one ended it; None if it was ended.

    `why` is a sentence for an end that is not the command's own.
    """

    end: End
    code: int | None
    output: str
    why: str = ""


def environment(project: str, venv: str | None, temp: str) -> dict[str, str]:
    """The whole environment of a command: nothing of ours is in it."""
    programs = [f"{venv}/bin"] if venv else []
    return {
        "PATH": ":".join([*programs, "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": temp,
        "TMPDIR": temp,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PYTHONPATH": f"{project}:{project}/src",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    } | ({"VIRTUAL_ENV": venv} if venv else {})


def to_text(order: Mapping[str, object]) -> bytes:
    """An order for the standalone scripts."""
    return json.dumps(order).encode()
