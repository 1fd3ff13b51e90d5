"""`orch up`: the whole stack as one command, stopped, killed, and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable

import psutil
import pytest

pytestmark = pytest.mark.integration

TINY = "project: tiny\ntask_description: Count words in a text\nprovider: simulated\n"
SLOW = TINY + "options: {latency_s: 0.8}\n"


@pytest.fixture
def up(service, eventually) -> Callable[..., psutil.Process]:
    """Starts the stack and returns when it is up."""

    def start(*args: str, **env: str) -> psutil.Process:
        process = service("up", "--concurrency", "4", *args, **env)
        assert "a worker for 4 steps at once" in process.stderr.readline()
        return process

    return start


def ended(tree: list[psutil.Process]) -> bool:
    """Whether none of these processes runs any more."""
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in tree)


def tree_of(pid: int) -> list[psutil.Process]:
    whole = psutil.Process(pid)
    return [whole, *whole.children(recursive=True)]


def test_the_stack_serves_all_commands_until_it_is_stopped(
    orch, up, free_port, eventually, status, workers_in_flower
):
    running = up("--port", str(free_port), FLOWER_BASIC_AUTH="ann:s3cret")

    # a second one is refused
    second = orch("up", "--no-flower")
    assert second.code == 3
    assert "already" in second.err

    # commands that name no Redis use it, and the mirror writes what becomes of it
    job_id = orch("submit", orch.spec(TINY), "--wait").out.strip()
    folder = orch.folder / "runs" / job_id
    eventually(lambda: status(folder) == "succeeded")

    # Flower is there
    eventually(lambda: workers_in_flower(free_port, "ann:s3cret"))

    # it leaves nothing running and nothing that others could read
    tree = tree_of(running.pid)
    assert len(tree) > 4
    running.terminate()
    assert running.wait(30) == 0
    assert ended(tree)
    home = orch.folder / "runs" / ".up"
    assert home.stat().st_mode & 0o777 == 0o700
    assert not (home / "redis-url").exists()
    assert orch("submit", orch.spec(TINY)).code == 3
    assert [job["job_id"] for job in orch("list", "--json").json()["jobs"]] == [job_id]


def test_a_stack_that_was_killed_leaves_nothing_running_and_goes_on_where_it_was(
    orch, up, eventually, status
):
    # given a job under way
    running = up("--no-flower", ORCH_LEASE_S="2")
    job_id = orch("submit", orch.spec(SLOW)).out.strip()
    folder = orch.folder / "runs" / job_id
    eventually(lambda: status(folder) == "running")

    # when it is killed
    tree = tree_of(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()

    # then nothing of it is left, and its pointer leads nobody astray
    eventually(lambda: ended(tree), seconds=5)
    assert (orch.folder / "runs" / ".up" / "redis-url").exists()
    assert orch("submit", orch.spec(TINY)).code == 3

    # and the next one ends the job
    up("--no-flower", ORCH_LEASE_S="2")
    eventually(lambda: status(folder) == "succeeded", seconds=40)
    steps = json.loads((folder / "manifest.json").read_text())["steps"]
    assert all(step["status"] == "succeeded" for step in steps.values())


def test_a_service_that_dies_is_started_again(orch, up, eventually):
    running = up("--no-flower")
    workers = [
        one for one in tree_of(running.pid) if "tasks.worker" in one.cmdline() and "celery" in one.cmdline()
    ]

    workers[-1].kill()

    assert orch("submit", orch.spec(TINY), "--wait").code == 0


def test_a_port_that_is_taken_is_told_of_before_anything_starts(orch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = orch("up", "--port", str(taken.getsockname()[1]))

    assert refused.code == 3
    assert "--port" in refused.err
    assert [path.name for path in (orch.folder / "runs").iterdir()] == [
        ".venvs"
    ]  # which the fixture put there
