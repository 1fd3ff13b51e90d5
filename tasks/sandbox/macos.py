"""The sandbox of macOS: sandbox-exec with a profile that allows what is listed, and nothing else.

There is one network for all, so servers that a project starts cannot be reached by its tests either; and one process
tree, so what leaves its process group outlives the errand, as shut in as before.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tasks.sandbox.errand import Errand, Ran
from tasks.sandbox.plain import run_here

PROGRAM = "/usr/bin/sandbox-exec"

_PROFILE = """(version 1)
(deny default)
(import "system.sb")
(allow process-fork)
(allow process-exec* (subpath "/usr") (subpath "/bin") {seen})
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* (subpath "/usr") (subpath "/bin") (subpath "/System") (subpath "/Library/Frameworks")
  (literal "/") (literal "/dev/null") (literal "/dev/zero") (literal "/dev/urandom") {seen})
(allow file-read* file-write* (subpath (param "ROOT")))
(allow file-write-data (literal "/dev/null"))
(allow system-socket)
(deny network*)
"""


@dataclass(frozen=True)
class SandboxExec:
    """macOS's own sandbox, as far as it goes: files and network are closed, limits are those of each process."""

    name: str = "sandbox-exec"
    contained: bool = True

    def run(self, errand: Errand, cancelled: threading.Event) -> Ran:
        """Run it with a profile made for it."""
        seen = [Path(sys.base_prefix).resolve(), *([errand.venv.resolve()] if errand.venv else [])]
        return run_here(errand, cancelled, lambda root: _before(seen, root))


def _before(seen: list[Path], root: Path) -> tuple[str, ...]:
    profile = _PROFILE.format(seen=" ".join(f'(subpath "{path}")' for path in seen))
    return (PROGRAM, "-D", f"ROOT={root}", "-p", profile)
