"""Runs a command that ends with its parent, however the parent ends: `python lifeline.py FD GROUP COMMAND…`.

FD is the reading end of a pipe whose writing end the parent alone holds. When the parent closes it, or dies in
any way, the command is killed; SIGTERM is passed on to it. With GROUP "own" the command leads a process group, and
what it has started ends with it; with "shared" it stays in the parent's group. This file stands alone, on the
standard library, so that it starts in a few milliseconds.
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


def main(pipe: int, group: str, command: list[str]) -> int:
    """Run the command until it or the pipe ends; returns its exit code, 128 + signal where one ended it."""
    # For the command too, unless it wants to know: the parent decides what a Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = group == "own"
    child = subprocess.Popen(command, process_group=0 if own else None, preexec_fn=_in_child)  # noqa: S603, PLW1509
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    watched = [pipe, os.pidfd_open(child.pid)] if hasattr(os, "pidfd_open") else [pipe]
    pause = None if len(watched) > 1 else _POLL_S
    while child.poll() is None:
        if pipe in select.select(watched, [], [], pause)[0]:
            child.kill()
            child.wait()
    if own:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _in_child() -> None:
    """Have the kernel kill us should the lifeline itself be killed, where it can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
