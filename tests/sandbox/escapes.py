"""What generated code may try. Each source prints `escaped` when it got what it should not have.

In a process of its own, `python -m tests.sandbox.escapes MEANS ERRAND`, it is also how the tests become another user:
it needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, replace

from tasks.sandbox.errand import Errand, Limits
from tasks.sandbox.linux import Bubblewrap, Namespaces

FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
NETWORK = """
import socket, sys
port, path = int(sys.argv[1]), sys.argv[2]
for family, address in (
    (socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_UNIX, path),
    (socket.AF_UNIX, "\\0" + path), (40, (2, 22)),
):
    try:
        one = socket.socket(family)
        one.settimeout(1)
        one.connect(address)
        print("escaped to", address)
    except OSError as error:
        print(family, type(error).__name__)
try:
    print("escaped", socket.getaddrinfo("example.com", 80))
except OSError:
    print("no names")
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname())
print("own servers answer")
"""
SECRETS = """
import os, sys
for name in os.listdir("/proc"):
    if name.isdigit():
        try:
            text = open(f"/proc/{name}/environ", "rb").read()
        except OSError:
            continue
        if b"verysecret" in text:
            print("escaped with the environment of", name)
if "verysecret" in str(dict(os.environ)):
    print("escaped with our own environment")
for path in sys.argv[1:]:
    try:
        print("escaped with", path, os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError:
        pass
for descriptor in range(3, 256):
    try:
        print("escaped with", descriptor, os.fstat(descriptor))
    except OSError:
        pass
print("environment", sorted(os.environ))
"""
PROCESSES = """
import ctypes, os, signal
numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
print("processes", sorted(numbers))
for number in (1, os.getppid()):
    for sent in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
        try:
            os.kill(number, sent)
        except OSError:
            pass
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, 1, 0, 0) == 0:
    print("escaped into process 1")
for name in ("mem", "environ", *(f"fd/{number}" for number in range(20))):
    try:
        open(f"/proc/1/{name}", "rb").read(1)
        print("escaped into", name)
    except OSError:
        pass
for name in ("root", "cwd"):
    try:
        os.listdir(f"/proc/1/{name}/")
        print("escaped into", name)
    except OSError:
        pass
"""
WRITING = """
import os, sys
def tried(path, what):
    try:
        what()
        print("escaped to", path)
    except OSError:
        pass
for path in ("/var/tmp", "/root", "/home", "/usr", "/etc", "/", "/dev", sys.base_prefix):
    tried(path, lambda: open(os.path.join(path, "x"), "w"))
    tried(path, lambda: os.makedirs(os.path.join(path, "d")))
for path in ("/proc/sys/kernel/hostname", "/etc/passwd", "/proc/1/oom_score_adj", "/proc/sysrq-trigger"):
    tried(path, lambda: open(path, "w").write("x"))
for number, path in enumerate(sys.argv[1:]):
    # These are in /tmp, which is another one here: the host is looked at afterwards.
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write("escaped")
    os.symlink(path, f"link{number}")
    open(f"link{number}", "w").write("escaped")
os.symlink("/var/tmp/x", "link")
tried("link", lambda: open("link", "w"))
tried("..", lambda: open("../x", "w"))
open("mine.txt", "w").write("allowed")
print("wrote", open("mine.txt").read(), open("a/b.txt").read())
"""
ENDLESS = """
while True:
    print("x" * 10000)
"""
ALLOCATION = """
block = bytearray(10 << 30)
print("escaped", len(block))
"""
SLOW_ALLOCATION = """
import os
for _ in range(8):
    if os.fork() == 0:
        break
kept = []
while True:
    kept.append(os.urandom(1) * (8 << 20))
"""
SHARED_MEMORY = """
import ctypes, mmap, os
try:
    os.memfd_create("x")
    print("escaped by memfd")
except OSError:
    pass
libc = ctypes.CDLL(None)
if libc.shmget(0, 1 << 20, 0o1600) >= 0:
    print("escaped by shmget")
kept = []
while True:
    one = mmap.mmap(-1, 64 << 20)
    one.write(b"x" * (64 << 20))
    kept.append(one)
"""
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(0)
        if len(sys.argv) > 2:
            os.close(1)
            os.close(2)
        time.sleep(1000)
    os._exit(0)
os.wait()
print("left it behind")
"""
DISK = """
import os
print("begun", flush=True)
written = 0
try:
    for number in range(1000):
        for folder in (".", "/tmp", "/dev/shm"):
            with open(f"{folder}/{number}", "wb") as file:
                for _ in range(40):
                    written += file.write(bytes(1 << 20))
except OSError as error:
    print("stopped", error.errno)
print("escaped" if written > 400 << 20 else "filled", written >> 20)
"""
ENTRIES = """
import os
number = 0
while True:
    number += 1
    for folder in (".", "/tmp", "/dev/shm"):
        os.mkdir(f"{folder}/{number}")
"""
RIGHTS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, *arguments):
    if getattr(libc, name)(*arguments) == 0:
        print("escaped by", name, arguments)
tried("mount", b"none", b"/tmp", b"tmpfs", 0, None)
tried("mount", None, b"/usr", None, 32 | 4096, None)
tried("umount2", b"/usr", 2)
tried("unshare", 0x10000000)
tried("unshare", 0x00020000)
tried("setns", 0, 0)
tried("setuid", 0)
tried("setresuid", 0, 0, 0)
tried("chroot", b"/tmp")
tried("sethostname", b"x", 1)
tried("prctl", 47, 2, 21, 0, 0)
child = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
if child == 0:
    print("escaped into a namespace", flush=True)
    os._exit(0)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("capabilities", {status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")})
print("user", os.getuid(), os.geteuid(), os.getgroups() in ([], [65534]), "new rights", status["NoNewPrivs"].strip())
try:
    os.mknod("sda", 0o60666, os.makedev(254, 0))
    print("escaped to the disk")
except OSError:
    pass
"""


def main(means: str, errand: str) -> None:
    """Run an errand with a kind of sandbox and print how it ended."""
    told = json.loads(errand)
    limits = replace(Limits(), **told["limits"])
    kind = Bubblewrap(means) if means else Namespaces()
    ran = kind.run(Errand(tuple(told["arguments"]), told["files"], None, limits), threading.Event())
    print(json.dumps(asdict(ran)))


if __name__ == "__main__":
    os.umask(0o077)
    main(*sys.argv[1:])
