"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.embedded import Child, StackDied

GRANDPARENT = """
import os, signal, sys, time
from pathlib import Path
from orchestrator.embedded import Child

folder = Path(sys.argv[1])
child = Child("family", [sys.executable, "-c", sys.argv[2], str(folder)], folder / "child.log")
print("started", flush=True)
if sys.argv[3] == "exit":
    sys.stdin.read()
    sys.exit(0)
if sys.argv[3] == "exec":
    sys.stdin.read()
    os.execvp("true", ["true"])
if sys.argv[3] == "hard exit":
    sys.stdin.read()
    os._exit(3)
time.sleep(1000)
"""

FAMILY = """
import os, subprocess, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
(folder / "pids.tmp").write_text(f"{os.getpid()} {grandchild.pid}")
(folder / "pids.tmp").rename(folder / "pids")
{then}
"""
LIVES = FAMILY.replace("{then}", "time.sleep(1000)")
IGNORES = FAMILY.replace(
    "{then}",
    "import signal\nfor n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)\n"
    "(folder / 'ignoring').touch()\ntime.sleep(1000)",
)
DIES = FAMILY.replace("{then}", "print('a last word', flush=True); sys.exit(7)")


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def pids(folder: Path) -> list[int]:
    """The child's process and its own child's, once both run."""
    until((folder / "pids").exists, "the family did not start")
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def state(pid: int) -> str:
    """The process's state as the kernel has it; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def ended(pid: int) -> bool:
    """Whether a process runs no more; one that a foreign init has yet to collect has ended too."""
    return state(pid) in ("", "Z", "X")


def children() -> set[int]:
    """Our own children, zombies included."""
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return {pid for pid in found if parent(pid) == os.getpid()}


pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test here leaves a child of ours, alive or dead."""
    before = children()
    yield
    assert children() <= before


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    """Starts a child that runs a script; lets go of it after the test."""
    all_of_them: list[Child] = []

    def start(script: str) -> Child:
        command = [sys.executable, "-c", script, str(tmp_path)]
        all_of_them.append(Child("family", command, tmp_path / "child.log"))
        return all_of_them[-1]

    yield start
    for child in all_of_them:
        child.let_go()
        child.wait()


@pytest.mark.parametrize("script", [LIVES, IGNORES], ids=["willing", "deaf to signals"])
def test_a_child_and_its_children_end_when_it_is_let_go(
    started: Callable[[str], Child], tmp_path: Path, script: str
) -> None:
    child = started(script)
    family = pids(tmp_path)
    if script == IGNORES:
        until((tmp_path / "ignoring").exists, "it does not ignore signals yet")
    child.check()

    child.let_go()
    child.wait()

    for pid in family:
        until(lambda pid=pid: ended(pid), "it lives on")


def test_a_child_can_be_let_go_and_waited_for_twice(started: Callable[[str], Child], tmp_path: Path) -> None:
    child = started(LIVES)
    pids(tmp_path)

    for _ in range(2):
        child.let_go()
        child.wait()


@pytest.mark.parametrize("how", ["exit", "hard exit", "exec", "kill", "terminate"])
def test_a_child_and_its_children_end_when_their_parent_does(tmp_path: Path, how: str) -> None:
    # given a process that has started a child, which has started one of its own
    command = [sys.executable, "-W", "ignore", "-c", GRANDPARENT, str(tmp_path), LIVES, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        family = pids(tmp_path)
        assert not any(map(ended, family))

        # when it ends in some way
        if how in ("kill", "terminate"):
            process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        assert process.stdin
        process.stdin.close()
        process.wait(10)

    # then they end too
    for pid in family:
        until(lambda pid=pid: ended(pid), f"{pid} lives on")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_when_what_watches_over_it_is_stopped(
    started: Callable[[str], Child], tmp_path: Path, number: signal.Signals
) -> None:
    child = started(LIVES)
    own, _ = pids(tmp_path)

    os.kill(parent(own), number)
    child.wait()

    until(lambda: ended(own), "it lives on")


def test_the_end_of_a_child_is_reported_with_the_end_of_its_log(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    script = "import sys\nfor n in range(100): print('line', n)\nprint('a last word'); sys.exit(7)"
    child = started(script)
    child.wait()

    with pytest.raises(StackDied) as died:
        child.check()

    assert "family" in str(died.value)
    assert "exit code 7" in str(died.value)
    assert str(died.value).splitlines()[-1] == "a last word"
    assert "line 99" in str(died.value)
    assert "line 50\n" not in str(died.value)


def test_a_child_that_a_signal_ended_is_reported_like_a_shell_does(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    child = started("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    child.wait()

    with pytest.raises(StackDied, match="exit code 137"):
        child.check()


def test_a_child_that_cannot_be_started_is_reported_with_the_reason(tmp_path: Path) -> None:
    child = Child("nobody", ["/nonexistent/program"], tmp_path / "child.log")
    child.wait()

    with pytest.raises(StackDied, match="/nonexistent/program"):
        child.check()
    child.let_go()


def test_a_child_that_lives_is_not_reported(started: Callable[[str], Child], tmp_path: Path) -> None:
    child = started(LIVES)
    pids(tmp_path)

    child.check()


def test_what_a_dead_child_had_started_does_not_outlive_it(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    # given a child that has a process of its own and dies by itself, as a worker that is out of memory
    child = started(DIES)
    own, grandchild = pids(tmp_path)
    child.wait()
    assert ended(own)

    # when it is found dead and let go
    with pytest.raises(StackDied, match="a last word"):
        child.check()
    child.let_go()

    # then its own process ends too
    try:
        until(lambda: ended(grandchild), "the grandchild lives on")
    finally:
        if not ended(grandchild):
            os.kill(grandchild, signal.SIGKILL)


def test_a_child_does_not_keep_another_childs_lifeline_open(tmp_path: Path) -> None:
    # given two children, the second started while the first runs
    first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    both = []
    for folder in (first_folder, second_folder):
        folder.mkdir()
        both.append(Child("family", [sys.executable, "-c", LIVES, str(folder)], folder / "child.log"))
    first, second = both
    family = pids(first_folder)
    pids(second_folder)

    # when the first is let go, it ends though the second lives
    first.let_go()
    first.wait()
    for pid in family:
        until(lambda pid=pid: ended(pid), "it lives on")
    second.check()

    second.let_go()
    second.wait()


def test_a_process_that_was_forked_meanwhile_does_not_keep_a_child_alive(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    # given a child, and a process that we start by the usual means after it
    child = started(LIVES)
    family = pids(tmp_path)
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    # when the child is let go while the other runs
    child.let_go()
    child.wait()

    # then it ends
    assert all(map(ended, family[:1]))
    assert bystander.poll() is None
    bystander.communicate(b"\n")


def test_a_child_is_out_of_reach_of_the_terminals_interrupt(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    # Ctrl-C goes to the foreground process group: a child must be in another, so that its parent ends it in order.
    started(LIVES)
    own, _ = pids(tmp_path)

    assert os.getpgid(own) != os.getpgid(0)
    assert os.getpgid(parent(own)) != os.getpgid(0)


def test_a_child_reads_nothing_from_our_input(started: Callable[[str], Child], tmp_path: Path) -> None:
    child = started("import sys; print(repr(sys.stdin.read())); sys.exit(5)")
    child.wait()

    with pytest.raises(StackDied, match="''"):
        child.check()
