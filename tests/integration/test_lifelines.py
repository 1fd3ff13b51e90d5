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

from orchestrator.child import Child
from orchestrator.embedded import MOST_DEATHS, Stack, StackDied

GRANDPARENT = """
import os, signal, sys, time
from pathlib import Path
from orchestrator.child import Child

folder = Path(sys.argv[1])
child = Child([sys.executable, "-c", sys.argv[2], str(folder)], folder / "child.log")
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
        all_of_them.append(Child(command, tmp_path / "child.log"))
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
    assert child.poll() is None

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


LAST_WORDS = "import sys\nfor n in range(100): print('line', n)\nprint('a last word'); sys.exit(7)"


def test_the_end_of_a_child_is_known_with_the_end_of_its_log(started: Callable[[str], Child]) -> None:
    child = started(LAST_WORDS)

    assert child.wait() == 7
    assert child.poll() == 7
    words = child.last_words()
    assert words.splitlines()[-1] == "a last word"
    assert "line 99" in words
    assert "line 50\n" not in words


def test_a_child_that_a_signal_ended_is_reported_like_a_shell_does(started: Callable[[str], Child]) -> None:
    child = started("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    assert child.wait() == 137


def test_a_child_that_cannot_be_started_is_reported_with_the_reason(tmp_path: Path) -> None:
    child = Child(["/nonexistent/program"], tmp_path / "child.log")

    assert child.wait() not in (0, None)
    assert "/nonexistent/program" in child.last_words()
    child.let_go()


def test_a_child_that_lives_has_no_exit_code_and_can_be_waited_for_in_pieces(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    child = started(LIVES)
    pids(tmp_path)

    assert child.poll() is None
    assert child.wait(0.05) is None


def test_what_a_dead_child_had_started_ends_with_it_before_anybody_lets_go(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    # given a child that has a process of its own and dies by itself, as a worker that is out of memory
    child = started(DIES)
    own, grandchild = pids(tmp_path)

    # when its end is known
    assert child.wait() == 7
    assert child.last_words() == "a last word"

    # then nothing of it runs any more, though it was not let go
    try:
        assert ended(own)
        until(lambda: ended(grandchild), "the grandchild lives on")
    finally:
        if not ended(grandchild):
            os.kill(grandchild, signal.SIGKILL)


# --- a child that is asked to end -------------------------------------------------------------------------------------

POLITE = """
import signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: (print("good bye", flush=True), sys.exit(5)))
(Path(sys.argv[1]) / "polite").touch()
time.sleep(1000)
"""


def test_a_child_that_is_asked_to_end_does_so_in_its_own_way(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    child = started(POLITE)
    until((tmp_path / "polite").exists, "it does not listen yet")

    child.ask()

    assert child.wait(5) == 5
    assert child.last_words() == "good bye"


def test_a_child_that_is_deaf_to_being_asked_is_killed_when_it_is_let_go(
    started: Callable[[str], Child], tmp_path: Path
) -> None:
    child = started(IGNORES)
    family = pids(tmp_path)
    until((tmp_path / "ignoring").exists, "it does not ignore signals yet")

    child.ask()
    assert child.wait(0.3) is None
    child.end()

    for pid in family:
        until(lambda pid=pid: ended(pid), "it lives on")


# --- a child in our own process group ---------------------------------------------------------------------------------


def test_a_child_that_shares_our_group_is_reached_with_it_and_ends_when_it_is_let_go(tmp_path: Path) -> None:
    # so that what is sent to a supervisor's whole group, by an init system or a container, reaches its worker
    child = Child([sys.executable, "-c", LIVES, str(tmp_path)], tmp_path / "child.log", own_group=False)
    own, grandchild = pids(tmp_path)

    assert os.getpgid(own) == os.getpgid(0)
    child.end()

    until(lambda: ended(own), "it lives on")
    os.kill(grandchild, signal.SIGKILL)


def test_a_child_that_shares_our_group_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = GRANDPARENT.replace('folder / "child.log")', 'folder / "child.log", own_group=False)')
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path), LIVES, "kill"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        own, grandchild = pids(tmp_path)

        process.kill()

    until(lambda: ended(own), "it lives on")
    os.kill(grandchild, signal.SIGKILL)


# --- the embedded stack's children ------------------------------------------------------------------------------------


@pytest.fixture
def stack_of(tmp_path: Path) -> Iterator[Callable[[str, str], Stack]]:
    """Makes a stack whose server and workers run these scripts; ends it after the test."""
    made: list[Stack] = []

    def make(server: str, worker: str) -> Stack:
        def start(script: str, name: str) -> Child:
            return Child([sys.executable, "-c", script, str(tmp_path)], tmp_path / f"{name}.log")

        made.append(Stack(tmp_path, start(server, "server"), lambda: start(worker, "worker")))
        return made[-1]

    yield make
    for stack in made:
        stack.end()


SLEEPS = "import time; time.sleep(1000)"
COUNTS_AND_DIES = """
import sys
from pathlib import Path

counter = Path(sys.argv[1]) / "starts"
with counter.open("a") as file:
    file.write("x")
print("a last word", flush=True)
sys.exit(7)
"""


def test_a_stack_that_lives_is_left_as_it_is(stack_of: Callable[[str, str], Stack], tmp_path: Path) -> None:
    stack = stack_of(SLEEPS, LIVES)
    family = pids(tmp_path)

    for _ in range(3):
        stack.check()

    assert not any(map(ended, family))


def test_a_worker_that_dies_is_started_again_until_that_is_no_use(
    stack_of: Callable[[str, str], Stack], tmp_path: Path
) -> None:
    # given a stack whose worker dies each time; until recovery there was, the first death ended the run
    starts = tmp_path / "starts"
    stack = stack_of(SLEEPS, COUNTS_AND_DIES)

    # when it is looked after
    def checked_until_given_up() -> bool:
        stack.check()
        return False

    with pytest.raises(StackDied) as died:
        until(checked_until_given_up, "it is not given up")

    # then it was started again so often, and its exit code and last words are told
    assert len(starts.read_text()) == 1 + MOST_DEATHS
    assert "exit code 7" in str(died.value)
    assert str(died.value).splitlines()[-1] == "a last word"


def test_a_redis_that_dies_ends_the_stack_at_once_with_its_log(
    stack_of: Callable[[str, str], Stack], tmp_path: Path
) -> None:
    stack = stack_of(LAST_WORDS, SLEEPS)

    def checked() -> bool:
        stack.check()
        return False

    with pytest.raises(StackDied, match="exit code 7") as died:
        until(checked, "its end is not noticed")

    assert "Redis" in str(died.value)
    assert str(died.value).splitlines()[-1] == "a last word"


# --- children and their pipes -----------------------------------------------------------------------------------------


def test_a_child_does_not_keep_another_childs_lifeline_open(tmp_path: Path) -> None:
    # given two children, the second started while the first runs
    first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    both = []
    for folder in (first_folder, second_folder):
        folder.mkdir()
        both.append(Child([sys.executable, "-c", LIVES, str(folder)], folder / "child.log"))
    first, second = both
    family = pids(first_folder)
    pids(second_folder)

    # when the first is let go, it ends though the second lives
    first.let_go()
    first.wait()
    for pid in family:
        until(lambda pid=pid: ended(pid), "it lives on")
    assert second.poll() is None

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


def test_a_child_reads_nothing_from_our_input(started: Callable[[str], Child]) -> None:
    child = started("import sys; print(repr(sys.stdin.read())); sys.exit(5)")

    assert child.wait() == 5
    assert child.last_words() == "''"
