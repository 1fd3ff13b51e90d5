"""`orch pull`: a run folder fetched from Redis, once, twice, beside a mirror, and when there is nothing to fetch."""

from __future__ import annotations

import json
import shutil

import pytest

from orchestrator.names import JobKeys
from orchestrator.stream import read_all

pytestmark = pytest.mark.integration

TINY = "project: tiny\ntask_description: Count words in a text\nprovider: simulated\n"


@pytest.fixture
def fleet(orch, redis_url, start_worker):
    """The command line, pointed at a Redis that one worker serves."""
    start_worker()
    orch.env["ORCH_REDIS_URL"] = redis_url
    return orch


def test_a_job_of_the_fleet_is_fetched_whole_and_its_project_put_where_the_spec_wants_it(
    fleet, client, require_whole
):
    job_id = fleet("submit", fleet.spec(TINY + "output_dir: made/here\n"), "--wait").out.strip()

    pulled = fleet("pull", job_id[:10], "--json")

    assert pulled.code == 0, pulled.err
    folder = fleet.folder / "runs" / job_id
    require_whole(client, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert pulled.json() == {
        "schema_version": 1,
        "job_id": job_id,
        "path": f"runs/{job_id}",
        "status": "succeeded",
        "files": manifest["files"],
        "events": len(fleet.events(job_id)),
    }
    made = {
        str(path.relative_to(fleet.folder / "made/here"))
        for path in (fleet.folder / "made/here").rglob("*")
        if path.is_file()
    }
    assert made - {".orch.json"} == {file["path"].removeprefix("tiny/") for file in manifest["files"]}

    # once more: it prints the folder and changes nothing
    assert fleet("pull", job_id).out.strip() == f"runs/{job_id}"
    require_whole(client, folder)


def test_a_job_under_way_is_fetched_as_it_is_now_also_while_a_mirror_writes_it(
    fleet, service, eventually, submit
):
    [folder] = submit(TINY + "options: {latency_s: 60}\n")
    service("mirror")
    eventually((folder / "manifest.json").exists)

    pulled = fleet("pull", folder.name, "--json", timeout=20)

    assert pulled.code == 0, pulled.err
    assert pulled.json()["status"] in ("queued", "running")


def test_a_content_that_redis_has_lost_is_named(fleet, client, submit, eventually):
    [folder] = submit(TINY + "output_dir: made\n")
    eventually(lambda: client.scard("orch:alive") == 0)
    lost = next(event for event in read_all(client, folder.name) if event.type == "file.written")
    client.hdel(JobKeys(folder.name).blobs, lost.get("sha256"))

    pulled = fleet("pull", folder.name)

    assert pulled.code == 1
    assert lost.get("path") in pulled.err
    assert not (fleet.folder / "made").exists()


def test_a_job_that_is_only_on_disk_is_there_already(orch):
    assert orch("run", orch.spec(TINY + "output_dir: made\n"), "-q").code == 0
    [folder] = orch.runs
    shutil.rmtree(orch.folder / "made")

    pulled = orch("pull", folder.name)

    assert pulled.code == 0
    assert pulled.out.strip() == f"runs/{folder.name}"
    assert "already" in pulled.err
    assert (orch.folder / "made" / "README.md").exists()


def test_what_cannot_be_fetched_ends_with_the_code_that_says_why(orch, redis_url, client):
    assert orch("pull", "job_ffffffffffff", ORCH_REDIS_URL=redis_url).code == 4
    assert orch("pull", "job_ffffffffffff").code == 3
    assert orch("pull", "job_ffffffffffff", ORCH_REDIS_URL="redis://127.0.0.1:1/0").code == 3
