"""Runs a command that ends with its parent, however the parent ends: `python lifeline.py FD COMMAND…`.

FD is the reading end of a pipe whose writing end the parent alone holds. When the parent closes it, or dies in
any way, the command's whole process group is killed. This file stands alone, on the standard library, so that it
starts in a few milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.2


def main(pipe: int, command: list[str]) -> int:
    """Run the command until it or the pipe ends; returns its exit code, 128 + signal where one ended it."""
    child = subprocess.Popen(command, process_group=0, preexec_fn=_die_with_parent)  # noqa: S603, PLW1509 - one thread
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(child.pid, signal.SIGKILL))
    watched = [pipe, os.pidfd_open(child.pid)] if hasattr(os, "pidfd_open") else [pipe]
    pause = None if len(watched) > 1 else _POLL_S
    while child.poll() is None:
        if pipe in select.select(watched, [], [], pause)[0]:
            break
    with contextlib.suppress(
        ProcessLookupError
    ):  # what the command has started ends with it, however it ended
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _die_with_parent() -> None:
    """Have the kernel end the command should this process be killed itself, where the kernel can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
