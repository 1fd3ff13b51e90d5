"""`orch worker` and what it supervises, as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

pytestmark = pytest.mark.integration

PATIENCE_S = 40.0
SUPERVISE = "import sys; from orchestrator.supervisor import supervise; sys.exit(supervise(sys.argv[1:]))"


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


@pytest.fixture
def supervise():
    """Supervises a Python script in a process group of its own; kills the group after the test."""
    started = []

    def start(script: str, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SUPERVISE, sys.executable, "-c", script, *args]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0))
        return started[-1]

    yield start
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


DIES = """
import sys, time
with open(sys.argv[1], "a") as log: log.write(f"{time.time()}\\n")
sys.exit(3)
"""
STAYS = """
import os, signal, sys, time
if len(sys.argv) > 2: signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open(sys.argv[1], "a") as log: log.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def lines(path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_what_dies_of_itself_is_started_again_later_each_time(supervise, tmp_path):
    starts = tmp_path / "starts"
    supervise(DIES, str(starts))

    until(lambda: len(lines(starts)) >= 4, "four starts")

    first, second, third, fourth = map(float, lines(starts)[:4])
    assert second - first < third - second < fourth - third
    assert fourth - third >= 1.5 * (third - second)


def test_a_supervisor_that_is_told_to_end_while_it_waits_ends_at_once(supervise, tmp_path):
    starts = tmp_path / "starts"
    supervisor = supervise(DIES, str(starts))
    until(lambda: len(lines(starts)) >= 3, "three starts")

    supervisor.terminate()

    assert supervisor.wait(2) == 0
    assert len(lines(starts)) == 3


@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_to_the_supervisor_reaches_what_it_runs_as_sigterm(supervise, tmp_path, told, code):
    starts = tmp_path / "starts"
    supervisor = supervise(STAYS, str(starts), "gently")
    until(lambda: lines(starts), "the start")
    [pid] = map(int, lines(starts))

    supervisor.send_signal(told)

    assert supervisor.wait(10) == code
    assert not psutil.pid_exists(pid)


def test_it_stays_in_the_supervisors_group_and_dies_with_it_on_kill_9(supervise, tmp_path):
    starts = tmp_path / "starts"
    supervisor = supervise(STAYS, str(starts))
    until(lambda: lines(starts), "the start")
    [pid] = map(int, lines(starts))
    assert os.getpgid(pid) == supervisor.pid == os.getpgid(supervisor.pid)

    supervisor.kill()

    until(lambda: not psutil.pid_exists(pid), "its end")


def test_a_signal_that_comes_while_it_is_started_again_is_not_lost(supervise, tmp_path):
    starts = tmp_path / "starts"
    # what dies at its first start, asks for the end of the supervisor as early as it can at its second, and stays
    script = STAYS.replace("time.sleep", "len(open(sys.argv[1]).readlines()) < 2 and sys.exit(1)\ntime.sleep")
    script = "import os, psutil, signal, sys\n" + script.replace(
        "time.sleep", "psutil.Process().parent().parent().send_signal(signal.SIGTERM)\ntime.sleep"
    )
    supervisor = supervise(script, str(starts), "gently")

    assert supervisor.wait(PATIENCE_S) == 0
    assert len(lines(starts)) == 2


# --- orch worker -----------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(orch, redis_url, client):
    """Starts `orch worker` and waits until the fleet knows it; kills its group after the test."""
    started = []

    def start(**env: str) -> subprocess.Popen[str]:
        started.append(orch.start("worker", "--concurrency", "2", ORCH_REDIS_URL=redis_url, **env))
        until(lambda: client.hlen("orch:workers") == len(started), "a worker")
        return started[-1]

    yield start
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_an_idle_worker_says_goodbye_and_ends_when_asked(worker, client):
    asked = worker()

    asked.terminate()

    assert asked.wait(10) == 0
    assert client.hlen("orch:workers") == 0
    assert client.get("orch:slots") is None
    assert client.get("orch:leader") is None


def test_all_processes_of_a_worker_share_its_group_and_none_outlives_it(worker):
    killed = worker()
    processes = family(killed)
    assert len(processes) >= 2
    assert {os.getpgid(one.pid) for one in processes} == {killed.pid}

    killed.kill()

    killed.wait()
    until(lambda: not any(one.is_running() for one in processes), "the end of all of them")


def test_a_worker_whose_celery_dies_is_back_by_itself(worker, client):
    supervisor = worker()
    [before] = client.hkeys("orch:workers")

    psutil.Process(int(before.rpartition(b":")[2])).kill()

    until(lambda: set(client.hkeys("orch:workers")) - {before}, "another process of the worker")
    assert supervisor.poll() is None


def test_a_worker_that_is_asked_twice_still_finishes_its_step(worker, orch, client, redis_url):
    orch.env["ORCH_REDIS_URL"] = redis_url
    asked = worker(ORCH_WORKER_GRACE_S="20")
    one = "project: p\ntask_description: x\nprovider: simulated\nsteps: [{id: a, prompt: x}]\n"
    job_id = orch("submit", orch.spec(one + "options: {latency_s: 3}\n")).out.strip()
    until(lambda: client.hlen("orch:held"), "its step")

    asked.terminate()
    until(lambda: not client.hlen("orch:workers"), "its goodbye")
    asked.terminate()

    assert asked.wait(20) == 0
    shown = orch("show", job_id, "--json").json()
    assert shown["status"] == "succeeded"
    assert shown["steps"]["a"]["runs"] == 1
