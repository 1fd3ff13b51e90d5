"""Which ways there are to run generated code on this machine: each is really tried, once a process."""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tasks.sandbox import linux, macos
from tasks.sandbox.errand import Errand, Limits
from tasks.sandbox.plain import Plain
from tasks.sandbox.supervise import Means

PROBE_S = 20.0
_PROBE = """
import os, socket, sys
path, port, *names = sys.argv[1:]
try:
    open(path)
    sys.exit("the host's files are in reach")
except OSError:
    pass
try:
    socket.create_connection(("127.0.0.1", int(port)), 2)
    sys.exit("the host's network is in reach")
except OSError:
    pass
print("inside", *(os.readlink(f"/proc/self/ns/{name}") for name in names))
"""
_NAMESPACES = ("user", "mnt", "net", "pid", "ipc") if sys.platform == "linux" else ()


@dataclass(frozen=True)
class Found:
    """The means that hold here; without any, why there are none."""

    means: Means | None
    why: str = ""


def choose(*, allow_unsandboxed: bool) -> Found:
    """What to run generated code with; without a sandbox only where that is allowed."""
    found = sandbox()
    if found.means or not allow_unsandboxed:
        return found
    return Found(Plain(), found.why)


def described(*, allow_unsandboxed: bool) -> str:
    """What a report says about it."""
    found = choose(allow_unsandboxed=allow_unsandboxed)
    name = found.means.name if found.means else "none, nothing was executed"
    return f"{name} ({found.why})" if found.why else name


@cache
def sandbox() -> Found:
    """The sandbox of this machine."""
    problems = []
    for means in _candidates():
        if not (problem := _problem(means)):
            return Found(means)
        problems.append(f"{means.name}: {problem}")
    return Found(None, "; ".join(problems) or f"no sandbox is known for {sys.platform}")


def _candidates() -> list[Means]:
    if sys.platform == "darwin":
        return [macos.SandboxExec()]
    found: list[Means] = []
    if sys.platform == "linux":
        found.append(linux.Namespaces())
        if bubblewrap := linux.bubblewrap():
            found.append(bubblewrap)
    return found


def _problem(means: Means) -> str:
    """Why it does not hold here; "" when it does. Tried, not asked for: hosts forbid namespaces in many ways."""
    with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as server:
        tried = (file.name, str(server.getsockname()[1]), *_NAMESPACES)
        errand = Errand(("-c", _PROBE, *tried), {}, limits=Limits(time_s=PROBE_S))
        ran = means.run(errand, threading.Event())
    first, *inside = ran.output.split() or [""]
    if ran.end != "exit" or ran.code != 0 or first != "inside":
        return ran.why or ran.output.strip()[-300:] or f"exit code {ran.code}"
    outside = {str(Path("/proc/self/ns", name).readlink()) for name in _NAMESPACES}
    shared = sorted(outside.intersection(inside))
    return f"namespaces of the host: {', '.join(shared)}" if shared else ""
