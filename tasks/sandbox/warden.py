"""Process 1 of a sandbox: starts the command without any rights, watches it, and takes everything along when it ends.

Stands on the standard library and the file beside it, so that it runs where nothing else is. An order is JSON:

    command, env, folder, files   what to run, where, on which files; the files are written by the command's user
    user                          id to become, null to stay
    limits                        as in `errand.Limits`
    counted                       file systems whose entries are limited together
    alive, report                 descriptors: one that ends when the sandbox has to, one that takes the report

The report is one JSON object: {"code": …} or {"over": limit} or {"broken": why}.
"""

import ctypes
import json
import os
import resource
import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.sandbox import seccomp

LOOK_MS = 20
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_CAPABILITIES_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def guard(order: dict[str, Any]) -> None:
    """Run the command to its end or a limit's, and report. The caller must be process 1, and must then exit."""
    # What runs in here shares our user in some kinds of sandbox; it must not look into us.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    child = os.fork()
    if child == 0:
        _run(order)
    say(order, _watch(child, order["alive"], order["limits"], order["counted"]))


def _watch(child: int, alive: int, limits: dict[str, Any], counted: list[str]) -> dict[str, Any]:
    waiting = select.poll()  # not select: a busy worker's descriptors have high numbers
    waiting.register(alive)
    while True:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                return {"code": code if code >= 0 else 128 - code}
        if waiting.poll(LOOK_MS):
            return {"broken": "nobody waits for it any more"}
        if over := _over(limits) or _too_full(limits, counted):
            return {"over": over}


def _over(limits: dict[str, Any]) -> str:
    """The limit that all processes together have crossed, or ""."""
    memory = processes = threads = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == "1":
            continue
        try:
            status = (entry / "status").read_text()
        except OSError:
            continue
        processes += 1
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in {"RssAnon", "RssShmem"}:
                memory += int(value.split()[0]) << 10
            elif name == "Threads":
                threads += int(value)
    if memory > limits["memory"]:
        return "memory"
    return "processes" if processes >= limits["processes"] or threads >= limits["threads"] else ""


def _too_full(limits: dict[str, Any], counted: list[str]) -> str:
    figures = [os.statvfs(path) for path in counted]
    return "entries" if sum(one.f_files - one.f_ffree for one in figures) > limits["entries"] else ""


def _run(order: dict[str, Any]) -> None:
    """Become the command; never returns."""
    try:
        os.setsid()
        _close_all_but({0, 1, 2, order["report"]})
        drop_rights(order["user"])
        _write(Path(order["folder"]), order["files"])
        os.chdir(order["folder"])
        limit(order["limits"])
        _reset_signals()
        os.set_inheritable(order["report"], False)
        os.execve(order["command"][0], order["command"], order["env"])  # noqa: S606
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told, and it never returns
        say(order, {"broken": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(126)


def drop_rights(user: int | None) -> None:
    """Give up every capability for good, and become the user."""
    if user is not None and os.geteuid() != user:
        os.setgroups([])
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if user is not None:
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up rights")
    seccomp.install()


def limit(limits: dict[str, Any]) -> None:
    """Set what the kernel limits for each process; None leaves one as it is."""
    seconds = int(limits["time_s"]) + 1
    for kind, most in (
        ("RLIMIT_CPU", seconds),
        ("RLIMIT_AS", limits["address_space"]),
        ("RLIMIT_NPROC", limits["threads"]),
        ("RLIMIT_FSIZE", limits["file"]),
        ("RLIMIT_NOFILE", limits["open_files"]),
        ("RLIMIT_CORE", 0),
    ):
        if most is None:
            continue
        _, hard = resource.getrlimit(getattr(resource, kind))
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(getattr(resource, kind), (bound, bound))
    os.nice(10)


def _write(folder: Path, files: dict[str, str]) -> None:
    os.umask(0o022)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")


def _close_all_but(kept: set[int]) -> None:
    descriptors = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    for descriptor in set(descriptors) - kept:
        with suppress(OSError):  # the listing's own is closed by now
            os.close(descriptor)


def _reset_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def say(order: dict[str, Any], report: dict[str, Any]) -> None:
    """Report to whoever ordered."""
    os.write(order["report"], json.dumps(report).encode()[:4000])


def read_order(descriptor: int) -> dict[str, Any]:
    """The order in a file that is open at its start."""
    with os.fdopen(descriptor, "rb") as file:
        order: dict[str, Any] = json.load(file)
    return order


def main(descriptor: int) -> None:
    """Be the warden of the order in the open file."""
    guard(read_order(descriptor))
