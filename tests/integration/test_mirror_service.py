"""`orch mirror` as a process: killed, started again, without Redis, beside jobs that cannot be mirrored."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from orchestrator.mirroring import MOST_OPEN

pytestmark = pytest.mark.integration

TINY = "project: tiny\ntask_description: Count words in a text\nprovider: simulated\n"
SLOW = TINY + "options: {latency_s: 0.25}\n"
ENDLESS = TINY + "options: {latency_s: 60}\n"


@pytest.fixture
def fleet(orch, redis_url, client):
    """The command line, pointed at an empty Redis without a worker."""
    orch.env["ORCH_REDIS_URL"] = redis_url
    return orch


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("runs/job_*/events.jsonl"))


def test_a_mirror_that_is_killed_again_and_again_leaves_whole_folders(
    fleet, service, start_worker, eventually, client, require_whole, submit, status
):
    # given jobs under way
    start_worker(concurrency=8)
    folders = submit(SLOW, times=10)

    # when the mirror is killed each time that it has written something
    for _ in range(4):
        before = lines(fleet.folder)
        mirror = service("mirror")
        eventually(lambda before=before: lines(fleet.folder) > before)
        mirror.kill()
        mirror.wait()
    service("mirror")
    eventually(lambda: all(status(folder) == "succeeded" for folder in folders))

    # then every folder is as one that was written at a stretch
    for folder in folders:
        require_whole(client, folder)


def test_new_and_resumed_jobs_are_noticed_at_once(
    fleet, service, start_worker, eventually, client, require_whole, submit, status
):
    start_worker()
    service("mirror")
    [failing] = submit(TINY + "options: {error: auth}\n")
    eventually(lambda: status(failing) == "failed")

    [new] = submit(TINY)
    assert fleet("resume", failing.name).code == 0

    eventually(lambda: status(new) == "succeeded", seconds=5)
    eventually(lambda: json.loads((failing / "manifest.json").read_text())["attempt"] == 2, seconds=5)
    eventually(lambda: status(failing) == "failed", seconds=5)
    require_whole(client, new)


def test_a_mirror_outlives_redis_and_says_so_once(
    orch, service, own_redis, eventually, require_whole, submit, status
):
    orch.env["ORCH_REDIS_URL"] = own_redis.url
    worker = service("worker")
    mirror = service("mirror")
    [folder] = submit(SLOW)
    eventually(lambda: status(folder) == "running")

    own_redis.stop()
    told = mirror.stderr.readline()
    assert "Redis does not answer" in told
    own_redis.start()

    eventually(lambda: status(folder) == "succeeded", seconds=40)
    with own_redis.client() as client:
        require_whole(client, folder)
    worker.terminate()
    mirror.terminate()
    _, further = mirror.communicate()
    assert mirror.returncode == 0
    assert "Redis does not answer" not in further
    assert own_redis.PASSWORD not in told + further


def test_a_job_that_cannot_be_mirrored_is_told_of_and_does_not_stop_the_others(
    fleet, client, require_whole, submit
):
    # given a file where a run folder would have to be
    blocked, free = submit(ENDLESS, times=2)
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")

    told = fleet("mirror", "--once")

    assert told.code == 1
    assert f"{blocked.name} is not mirrored" in told.err
    require_whole(client, free)

    # and once the file is gone
    blocked.unlink()
    assert fleet("mirror", "--once").code == 0
    require_whole(client, blocked)


def test_many_jobs_do_not_need_as_many_open_files(
    fleet, service, eventually, client, require_whole, submit, status
):
    folders = submit(ENDLESS, times=MOST_OPEN + 40)

    mirror = service("mirror")

    eventually(lambda: all(status(folder) == "queued" for folder in folders))
    assert psutil.Process(mirror.pid).num_fds() < 2 * MOST_OPEN + 20
    for folder in folders[:3] + folders[-3:]:
        require_whole(client, folder)


def test_a_manifest_that_a_killed_mirror_left_behind_its_events_is_made_good(
    fleet, start_worker, client, require_whole, submit, eventually
):
    # given a folder as it is when the mirror dies between the last event and the manifest
    start_worker()
    [folder] = submit(TINY)
    eventually(lambda: client.scard("orch:alive") == 0)
    assert fleet("mirror", "--once").code == 0
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("succeeded", "running"))
    events_ns = (folder / "events.jsonl").stat().st_mtime_ns
    os.utime(manifest, ns=(events_ns - 10**9, events_ns - 10**9))

    assert fleet("mirror", "--once").code == 0

    require_whole(client, folder)


def test_a_mirror_that_is_told_to_stop_writes_what_there_is_and_a_second_one_is_refused(
    fleet, service, start_worker, eventually, client, require_whole, submit, status
):
    start_worker()
    mirror = service("mirror", "--json")
    [folder] = submit(TINY)
    eventually(lambda: status(folder) == "succeeded")

    second = fleet("mirror")
    assert second.code == 3
    assert "another" in second.err

    mirror.send_signal(signal.SIGTERM)
    said, _ = mirror.communicate(timeout=10)
    assert mirror.returncode == 0
    assert json.loads(said) == {
        "schema_version": 1,
        "job_id": folder.name,
        "path": f"runs/{folder.name}",
        "status": "succeeded",
        "files": 3,
    }
    require_whole(client, folder)
