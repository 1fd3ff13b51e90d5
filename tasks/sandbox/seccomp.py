"""Refuses system calls that namespaces and limits do not contain. Stands on the standard library alone.

Memory that no limit sees (memfd, System V), sockets that leave the network namespace (vsock), the kernel's key
rings, further namespaces and mounts, and interfaces with a history of holes. Numbers: Linux
`arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`; filter: `seccomp(2)`, `bpf(4)`.
"""

import ctypes
import errno
import platform
import struct

_REFUSED = {
    # Numbers on x86_64 and aarch64.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE = (56, 220)
_CLONE3 = 435
_SOCKET = (41, 198)
_FAMILIES = (1, 2, 10, 16)  # Unix, IPv4, IPv6, netlink
_NEW_NAMESPACES = 0x7E020000
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_ERROR = 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_PR_SET_SECCOMP = 22
_FILTER = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def install() -> None:
    """Filter this process and all that it starts, for good. Needs no-new-privileges or CAP_SYS_ADMIN.

    Raises:
        OSError: The kernel knows no filters, or the machine is of a kind whose calls we do not know.
    """
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {platform.machine()}")
    code = b"".join(_instructions(*_ARCHITECTURES[platform.machine()]))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def _instructions(column: int, architecture: int) -> list[bytes]:
    code = [
        _step(_LOAD, _ARCHITECTURE),
        *_unless(_EQUAL, architecture, errno.EPERM),
        _step(_LOAD, _NUMBER),
        *_when(_AT_LEAST, _X32, errno.EPERM),
        # Its flags are in memory, where no filter sees them: libraries then go back to clone.
        *_when(_EQUAL, _CLONE3, errno.ENOSYS),
    ]
    for numbers in _REFUSED.values():
        code += _when(_EQUAL, numbers[column], errno.EPERM)
    clone = [
        _step(_LOAD, _FIRST_ARGUMENT),
        *_when(_ANY_BIT, _NEW_NAMESPACES, errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    code += [_step(_EQUAL, _CLONE[column], 0, len(clone)), *clone]
    family = [_step(_LOAD, _FIRST_ARGUMENT)]
    for known in _FAMILIES:
        family += [_step(_EQUAL, known, 0, 1), _step(_RETURN, _ALLOW)]
    family.append(_step(_RETURN, _ERROR | errno.EAFNOSUPPORT))
    code += [_step(_EQUAL, _SOCKET[column], 0, len(family)), *family]
    return [*code, _step(_RETURN, _ALLOW)]


def _when(test: int, value: int, error: int) -> list[bytes]:
    return [_step(test, value, 0, 1), _step(_RETURN, _ERROR | error)]


def _unless(test: int, value: int, error: int) -> list[bytes]:
    return [_step(test, value, 1, 0), _step(_RETURN, _ERROR | error)]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
