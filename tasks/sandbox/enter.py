"""Makes the namespaces and the root folder of a sandbox, and is its warden.

Stands on the standard library and the files beside it. The order is the warden's, and more:

    user        id of the command's user inside
    outside     ids of users of the host that exist inside: [[inside, outside], …], the same for groups
    links       {path: target} of symbolic links in the root folder
    shown       [path, inside] of folders and files of the host that are seen, read-only
    made        {path: text} of files that are made up
    room        {path: bytes} of folders in memory that the command may write to

Inside there is nothing else: `shown` alone comes from the host. User, mount, network, process, IPC, host name and
cgroup namespaces are new. Nothing of this outlives the last process in it, so nothing is left to clear up.
See user_namespaces(7), mount_setattr(2), pivot_root(2).
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path
from typing import Any, NoReturn

from tasks.sandbox import warden

_CLONE_NEW = 0x10000000 | 0x00020000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x02000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # the same on every architecture
_PR_SET_PDEATHSIG = 1
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_DEVICES = ("null", "zero", "full", "random", "urandom")

_BASE = "/tmp"  # noqa: S108 - any folder that every host has: it becomes the place of the new root
_HOST = "/host"

libc = ctypes.CDLL(None, use_errno=True)


def main(descriptor: int) -> None:
    """Enter, and be the warden of the order in the open file. Reports as the warden does what does not work."""
    order = warden.read_order(descriptor)
    os.umask(0o022)
    _die_with_parent()
    try:
        _new_namespaces(order["outside"])
        first = os.fork()
    except OSError as error:
        _give_up(order, error)
    if first:
        os.close(order["report"])
        os.close(order["alive"])
        os.waitpid(first, 0)
        return
    try:
        _die_with_parent()
        _furnish(order)
        _no_further_namespaces()
    except OSError as error:
        _give_up(order, error)
    warden.guard(order)


def _give_up(order: dict[str, Any], error: OSError) -> NoReturn:
    warden.say(order, {"broken": f"{type(error).__name__}: {error}"})
    os._exit(1)


def _new_namespaces(outside: list[list[int]]) -> None:
    """Leave the host's namespaces. A child that stays behind has the rights to say who we are in the new ones."""
    us = os.getpid()
    ours, theirs = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(_map_users(us, outside))
    os.close(ours)
    try:
        _check(libc.unshare(_CLONE_NEW), "unshare")
    finally:
        os.close(theirs)
        failed = os.waitpid(mapper, 0)[1]
    if failed:
        raise PermissionError("the users of the sandbox cannot be mapped")


def _map_users(process: int, outside: list[list[int]]) -> int:
    folder = Path("/proc", str(process))
    try:
        if len(outside) == 1:
            (folder / "setgroups").write_text("deny")
        for name, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
            lines = [f"{inside} {own if host < 0 else host} 1" for inside, host in outside]
            (folder / name).write_text("\n".join(lines))
    except OSError:
        return 1
    return 0


def _furnish(order: dict[str, Any]) -> None:
    """Make the root folder, which has what the order says, and leave the host's."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _tmpfs(_BASE, 1 << 20)
    host = Path(f"{_BASE}{_HOST}")
    host.mkdir()
    _check(libc.pivot_root(_BASE.encode(), str(host).encode()), "pivot_root")
    os.chdir("/")
    _devices()
    for path, target in order["links"].items():
        Path(path).symlink_to(target)
    for path, size in order["room"].items():
        Path(path).mkdir(parents=True, exist_ok=True)
        _tmpfs(path, size, mode="1777")
    for path, inside in order["shown"]:
        _show(path, inside)
    for path, text in order["made"].items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    Path("/proc").mkdir()
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(libc.umount2(_HOST.encode(), _MNT_DETACH), "umount2")
    Path(_HOST).rmdir()
    socket.sethostname("sandbox")
    _loopback_up()


def _devices() -> None:
    Path("/dev").mkdir()
    for name in _DEVICES:
        path = Path("/dev", name)
        path.touch()
        _mount(f"{_HOST}{path}", str(path), None, _MS_BIND)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path("/dev", name).symlink_to(f"/proc/self/fd{target}")


def _show(path: str, inside: str) -> None:
    """Make a folder or file of the host visible, with all that is mounted in it, and nothing in it writable."""
    source, place = Path(f"{_HOST}{path}"), Path(inside)
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(str(source), inside, None, _MS_BIND | _MS_REC)
    attributes = struct.pack("=QQQQ", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, 0, 0, 0)
    where = ctypes.c_char_p(os.fsencode(inside))
    flags = ctypes.c_uint(_AT_RECURSIVE)
    size = ctypes.c_size_t(len(attributes))
    _check(libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, where, flags, attributes, size), "mount_setattr")


def _no_further_namespaces() -> None:
    """A user namespace inside this one would give its maker rights again, if only over itself."""
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    # From here on the root folder is as it is.
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    Path("/proc/self/oom_score_adj").write_text("1000")


def _loopback_up() -> None:
    """Servers that a project's tests start listen on 127.0.0.1; nothing else is in this network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _tmpfs(path: str, size: int, mode: str = "0755") -> None:
    _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes=100000,mode={mode}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _check(libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def _die_with_parent() -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
