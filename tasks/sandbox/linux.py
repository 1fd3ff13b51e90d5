"""The sandboxes of Linux. Both show the same root folder; one is made by `enter`, the other by bubblewrap."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.sandbox import supervise
from tasks.sandbox.errand import PROJECT, VENV, Errand, Ran, environment

NOBODY = 65534
_TOP = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SEEN = ("/usr", "/nix/store", "/etc/alternatives", "/etc/ld.so.cache")
_MADE = {
    "/etc/passwd": f"nobody:x:{NOBODY}:{NOBODY}:nobody:/tmp:/usr/sbin/nologin\n",
    "/etc/group": f"nogroup:x:{NOBODY}:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_SHM = 16 << 20


@dataclass(frozen=True)
class Namespaces:
    """User, mount, network, process, IPC and host name namespaces that we make ourselves."""

    name: str = "Linux namespaces"
    contained: bool = True

    def run(self, errand: Errand, cancelled: threading.Event) -> Ran:
        """Run it as a user that owns nothing: as root one of the host's that has no rights, else ourselves."""
        order = _order(errand) | {
            "outside": [[0, 0], [NOBODY, NOBODY]] if os.geteuid() == 0 else [[NOBODY, -1]],
            "links": dict(_links()),
            "shown": list(_shown(errand.venv)),
            "made": _MADE,
            "room": _room(errand),
        }
        return supervise.guarded(supervise.launch("enter"), order, errand, cancelled)


@dataclass(frozen=True)
class Bubblewrap:
    """The same by bubblewrap, for hosts that let no other program make namespaces."""

    program: str
    name: str = "bubblewrap"
    contained: bool = True

    def run(self, errand: Errand, cancelled: threading.Event) -> Ran:
        """Run it with the warden as process 1; see bwrap(1)."""
        command = [self.program, "--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1"]
        command += ["--die-with-parent", "--cap-drop", "ALL"]
        command += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
        for path, target in _links():
            command += ["--symlink", target, path]
        command += ["--proc", "/proc", "--dev", "/dev"]
        for path, size in _room(errand).items():
            command += ["--size", str(size), "--perms", "1777", "--tmpfs", path]
        for path, inside in (*_shown(errand.venv), (str(Path(__file__).parent), "/orch/tasks/sandbox")):
            command += ["--ro-bind", path, inside]
        order = _order(errand) | {"user": None}
        with ExitStack() as stack:
            made = {path: stack.enter_context(_in_memory(text)) for path, text in _MADE.items()}
            for path, descriptor in made.items():
                command += ["--perms", "0444", "--ro-bind-data", str(descriptor), path]
            command += ["--remount-ro", "/dev", "--remount-ro", "/", "--"]
            command += supervise.launch("warden", "/orch", base_python())
            return supervise.guarded(command, order, errand, cancelled, tuple(made.values()))


@contextmanager
def _in_memory(text: str) -> Iterator[int]:
    """An open file of that text, at its start."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file.fileno()


def bubblewrap() -> Bubblewrap | None:
    """Bubblewrap, where it is installed; not for root, who it would stay: as root one may write to /proc/sys."""
    program = shutil.which("bwrap") if os.geteuid() else None
    return Bubblewrap(program) if program else None


def base_python() -> str:
    """The interpreter that this process's own environment, if it has one, was made with."""
    return str(Path(getattr(sys, "_base_executable", "") or sys.executable).resolve())


def _order(errand: Errand) -> dict[str, object]:
    venv = VENV if errand.venv else None
    return {
        "command": [f"{VENV}/bin/python" if venv else base_python(), *errand.arguments],
        "env": environment(PROJECT, venv, "/tmp"),  # noqa: S108 - its own
        "folder": PROJECT,
        "files": dict(errand.files),
        "user": NOBODY,
        "limits": errand.limits_as_json(),
        "counted": list(_room(errand)),
    }


def _links() -> Iterator[tuple[str, str]]:
    for path in map(Path, _TOP):
        if path.is_symlink():
            yield str(path), str(path.readlink())


def _shown(venv: Path | None) -> Iterator[tuple[str, str]]:
    """What is seen of the host: its programs and libraries, the Python installation, and the project's packages."""
    for path in map(Path, (*_TOP, *_SEEN)):
        if path.exists() and not path.is_symlink():
            yield str(path), str(path)
    for prefix in dict.fromkeys((Path(sys.base_prefix), Path(sys.base_prefix).resolve())):
        if not prefix.is_relative_to("/usr"):
            yield str(prefix), str(prefix)
    if venv:
        yield str(venv.resolve()), VENV


def _room(errand: Errand) -> dict[str, int]:
    disk = errand.limits.disk
    return {PROJECT: disk, "/tmp": disk // 4, "/dev/shm": _SHM}  # noqa: S108 - its own
