"""Generated code tries to break out, in every kind of sandbox there is here and as every kind of user."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks.sandbox import means
from tasks.sandbox.errand import Ran
from tests.sandbox import escapes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not means.sandbox().means, reason=f"no sandbox here: {means.sandbox().why}"),
]

ROOT = Path(__file__).parents[2]
SYSTEM_PYTHON = Path("/usr/bin/python3")
STRANGER = 12_345
BWRAP = shutil.which("bwrap")

Run = Callable[..., Ran]

if sys.platform != "linux":
    pytest.skip("sandboxes of Linux", allow_module_level=True)


def _kinds() -> Iterator[str]:
    for kind in ("namespaces", *(["bubblewrap"] if BWRAP else [])):
        if kind == "namespaces" or os.geteuid():
            yield f"{kind}, as ourselves"
        if os.geteuid() == 0 and SYSTEM_PYTHON.exists() and shutil.which("setpriv"):
            yield f"{kind}, as an ordinary user"


@pytest.fixture(params=list(_kinds()))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a source in a kind of sandbox; the process around it has a secret in its environment."""
    kind, _, who = request.param.partition(", ")
    become = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", str(SYSTEM_PYTHON)]
    python = [sys.executable] if who == "as ourselves" else become

    def run(source: str, *arguments: str, files: dict[str, str] | None = None, **limits: float) -> Ran:
        errand = {
            "arguments": ["-c", source, *arguments],
            "files": files or {},
            "limits": {"time_s": 20, **limits},
        }
        bwrap = BWRAP or "" if kind == "bubblewrap" else ""
        done = subprocess.run(
            [*python, "-m", "tests.sandbox.escapes", bwrap, json.dumps(errand)],
            cwd=ROOT,
            env={**os.environ, "OPENAI_API_KEY": "verysecret", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        ran = Ran(**json.loads(done.stdout))
        assert ran.end != "broken", ran.why
        return ran

    return run


def working(run: Run) -> bool:
    return run("print('still working')").output == "still working\n"


def test_a_fork_bomb_is_ended_and_the_next_errand_works(run: Run) -> None:
    ran = run(escapes.FORK_BOMB)

    assert ran.end == "processes"
    assert working(run)


def test_neither_the_network_nor_a_unix_socket_of_the_host_is_in_reach(run: Run, tmp_path: Path) -> None:
    path = f"/tmp/orch-test-{os.getpid()}.sock"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        Path(path).chmod(0o777)
        unix.listen()
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(f"\0{path}")
            abstract.listen()

            ran = run(escapes.NETWORK, str(tcp.getsockname()[1]), path)
    Path(path).unlink()

    assert "escaped" not in ran.output
    assert "own servers answer" in ran.output


def test_no_secret_no_home_and_no_file_of_the_host_is_seen(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "key.txt"
    secret.write_text("verysecret")
    places = [
        str(secret),
        str(ROOT),
        "/home",
        "/var",
        "/run",
        "/etc/shadow",
        "/etc/resolv.conf",
        "/proc/1/root/etc",
    ]
    places += ["/root/.ssh", "/root/.bashrc", "/root/.config", "/sys", "/work", "/mnt"]

    ran = run(escapes.SECRETS, *places)

    assert "escaped" not in ran.output
    assert "environment ['COLUMNS', 'HOME'" in ran.output


def test_other_processes_are_neither_seen_nor_killed_nor_looked_into(run: Run) -> None:
    ran = run(escapes.PROCESSES)

    assert ran.code == 0
    assert "processes [1, 2]" in ran.output
    assert "escaped" not in ran.output


def test_nothing_outside_the_working_copy_is_written(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    ran = run(escapes.WRITING, str(tmp_path / "x"), f"/tmp/../{tmp_path}/y", files={"a/b.txt": "ö"})

    assert "escaped" not in ran.output
    assert "wrote allowed ö" in ran.output
    assert not list(tmp_path.iterdir())


def test_endless_output_is_ended(run: Run) -> None:
    ran = run(escapes.ENDLESS, output=1 << 18)

    assert (ran.end, len(ran.output)) == ("output", 1 << 18)
    assert working(run)


def test_ten_gigabytes_at_once_are_not_given(run: Run) -> None:
    ran = run(escapes.ALLOCATION)

    assert "MemoryError" in ran.output


@pytest.mark.parametrize("source", [escapes.SLOW_ALLOCATION, escapes.SHARED_MEMORY], ids=["many", "shared"])
def test_memory_that_grows_bit_by_bit_is_ended_for_the_whole_tree(run: Run, source: str) -> None:
    ran = run(source, memory=256 << 20)

    assert ran.end == "memory"
    assert "escaped" not in ran.output
    assert working(run)


@pytest.mark.parametrize("silent", [[], ["silent"]], ids=["", "closing its output"])
def test_a_daemon_does_not_outlive_its_errand(run: Run, silent: list[str]) -> None:
    mark = uuid.uuid4().hex

    ran = run(escapes.DAEMON, mark, *silent)

    assert (ran.end, ran.output) == ("exit", "left it behind\n")
    assert not [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])]


def test_the_disk_is_filled_only_so_far(run: Run) -> None:
    ran = run(escapes.DISK)

    assert "escaped" not in ran.output
    assert "filled" in ran.output
    assert working(run)


def test_a_disk_full_of_empty_folders_is_ended(run: Run) -> None:
    ran = run(escapes.ENTRIES, entries=5_000)

    assert ran.end == "entries"
    assert working(run)


def test_no_rights_are_held_or_gained(run: Run) -> None:
    ran = run(escapes.RIGHTS)

    assert "escaped" not in ran.output
    assert "capabilities {'0000000000000000'}" in ran.output
    assert "user 65534 65534 True new rights 1" in ran.output


def test_a_command_that_hangs_is_ended_in_time(run: Run) -> None:
    ran = run("import time; print('begun', flush=True); time.sleep(1000)", time_s=1)

    assert (ran.end, ran.output) == ("time", "begun\n")


def test_nothing_is_left_behind(run: Run) -> None:
    mark, mounts = uuid.uuid4().hex, Path("/proc/mounts").read_text()

    run(escapes.DAEMON, mark)
    run(escapes.ENTRIES, mark, entries=100)

    assert Path("/proc/mounts").read_text() == mounts
    assert not [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])]
