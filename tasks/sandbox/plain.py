"""No sandbox: a process in a temporary folder, with a cleared environment and the kernel's limits.

It keeps accidents small, and holds nothing that means harm: network, files and other processes are in reach.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.sandbox import supervise
from tasks.sandbox.errand import PROJECT, VENV, Errand, Ran, environment, to_text
from tasks.sandbox.linux import base_python


@dataclass(frozen=True)
class Plain:
    """A subprocess and nothing more; only for those who allow it."""

    name: str = "none: run unsandboxed, as allowed"
    contained: bool = False

    def run(self, errand: Errand, cancelled: threading.Event) -> Ran:
        """Run it in a folder that is removed again; its process group ends with it."""
        return run_here(errand, cancelled, lambda _: ())


def run_here(errand: Errand, cancelled: threading.Event, before: Callable[[Path], tuple[str, ...]]) -> Ran:
    """Run an errand on this machine's own files; `before` gives what stands before its command."""
    with tempfile.TemporaryDirectory(prefix="orch-qa-", ignore_cleanup_errors=True) as name:
        root = Path(name).resolve()
        project, temp = root / "project", root / "tmp"
        temp.mkdir()
        write(project, errand.files)
        venv = str(errand.venv.resolve()) if errand.venv else None
        command = [*before(root), f"{venv}/bin/python" if venv else base_python(), *errand.arguments]
        with tempfile.TemporaryFile() as order:
            order.write(to_text({"command": command, "limits": _limits(errand)}))
            order.seek(0)
            process = subprocess.Popen(  # noqa: S603 - our own script
                [*supervise.launch("limited"), str(order.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(order.fileno(),),
                env=environment(str(project), venv, str(temp)),
                cwd=project,
                start_new_session=True,
            )
        end, output = supervise.watch(process, errand.limits, cancelled, lambda: _kill_group(process.pid))
        for path, known in ((str(project), PROJECT), (str(temp), "/tmp"), (venv, VENV)):  # noqa: S108
            output = output.replace(path, known) if path else output
        code = process.returncode
        said: dict[str, object] = {"code": code if code >= 0 else 128 - code}
        return supervise.ending(end, output, said, errand.limits)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the working copy."""
    folder.mkdir()
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8", newline="")


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _limits(errand: Errand) -> dict[str, float | None]:
    """The kernel counts a user's processes, whoever started them, and macOS cannot limit an address space."""
    space = errand.limits.address_space if sys.platform == "linux" else None
    return errand.limits_as_json() | {"threads": None, "address_space": space}
