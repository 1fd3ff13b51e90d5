"""The fleet's commands on a shared Redis, with workers as processes of their own."""

from __future__ import annotations

import json

import pytest
from celery.result import AsyncResult

from orchestrator.celery_app import make_app

pytestmark = pytest.mark.integration

TINY = "project: tiny\ntask_description: Count words in a text\nprovider: simulated\n"


@pytest.fixture
def fleet(orch, redis_url, start_worker):
    """The command line, pointed at a Redis that one worker serves."""
    start_worker()
    orch.env["ORCH_REDIS_URL"] = redis_url
    return orch


def test_submitted_jobs_run_on_the_worker_and_wait_ends_with_their_code(fleet):
    good, bad = fleet.spec(TINY, "good.yaml"), fleet.spec(TINY + "options: {error: auth}\n", "bad.yaml")

    submitted = fleet("submit", good, good, "--json", "--wait")

    assert submitted.code == 0, submitted.err
    jobs = submitted.json()["jobs"]
    assert [job["spec"] for job in jobs] == ["good.yaml", "good.yaml"]
    assert len({job["job_id"] for job in jobs}) == 2
    assert fleet("submit", good, bad, "--wait").code == 1


def test_submit_returns_at_once_and_prints_one_job_id_a_line(fleet):
    slow = fleet.spec(TINY + "options: {latency_s: 30}\n")

    submitted = fleet("submit", slow, slow)

    ids = submitted.out.split()
    assert submitted.code == 0
    assert len(ids) == 2
    assert all(fleet("show", job_id, "--json").json()["status"] in ("queued", "running") for job_id in ids)
    assert all(fleet("cancel", job_id).code == 0 for job_id in ids)


def test_nothing_is_queued_unless_every_spec_is_valid(fleet):
    good, bad = fleet.spec(TINY, "good.yaml"), fleet.spec("project: 7\n", "bad.yaml")

    submitted = fleet("submit", good, bad)

    assert submitted.code == 2
    assert submitted.out == ""
    assert fleet("list", "--json").json()["jobs"] == []


def test_show_tail_and_list_read_redis(fleet):
    job_id = fleet("submit", fleet.spec(TINY), "--wait").out.strip()

    shown = fleet("show", job_id[:9], "--json").json()
    assert shown["job_id"] == job_id
    assert shown["status"] == "succeeded"
    assert shown["pending_steps"] == []
    events = [json.loads(line) for line in fleet("tail", job_id, "--json").out.splitlines()]
    assert events[0]["type"] == "job.submitted"
    assert events[-1]["type"] == "job.succeeded"
    assert all(event["schema_version"] == 1 for event in events)
    assert fleet("list-runs", "--json").json()["jobs"][0]["job_id"] == job_id
    assert not (fleet.folder / "runs" / job_id).exists(), "nothing mirrors here"


def test_tail_filters(fleet):
    job_id = fleet("submit", fleet.spec(TINY), "--wait").out.strip()

    def tail(*flags: str) -> list[dict]:
        return [json.loads(line) for line in fleet("tail", job_id, "--json", *flags).out.splitlines()]

    everything = tail()
    assert tail("-n", "2") == everything[-2:]
    assert tail("-n", "0") == []
    assert {event["step"] for event in tail("--step", "docs")} == {"docs"}
    assert {event["type"] for event in tail("--type", "step.started", "--type", "step.queued")} == {
        "step.started",
        "step.queued",
    }
    assert tail("--level", "ERROR") == []
    assert tail("--since", everything[3]["id"]) == everything[4:]
    assert fleet("tail", job_id, "--since", "yesterday").code == 2


def test_tail_follows_a_job_to_its_end(fleet):
    job_id = fleet("submit", fleet.spec(TINY + "options: {latency_s: 0.3}\n")).out.strip()

    followed = fleet("tail", job_id, "-f", "--json")

    ids = [json.loads(line)["id"] for line in followed.out.splitlines()]
    assert json.loads(followed.out.splitlines()[-1])["type"] == "job.succeeded"
    assert len(ids) == len(set(ids))


def test_resume_runs_only_what_is_not_done_and_refuses_a_job_that_is(fleet, client):
    second = "{id: b, needs: [a], prompt: y, options: {error: server}, retries: 0}"
    broken = TINY + f"steps: [{{id: a, prompt: x}}, {second}]\n"
    job_id = fleet("submit", fleet.spec(broken), "--wait").out.strip()
    assert fleet("show", job_id, "--json").json()["completed_steps"] == ["a"]

    assert fleet("resume", job_id).code == 0
    fleet("tail", job_id, "-f")

    shown = fleet("show", job_id, "--json").json()
    assert shown["attempt"] == 2
    assert shown["steps"]["a"]["runs"] == 1
    assert shown["steps"]["b"]["runs"] == 2
    done = fleet("submit", fleet.spec(TINY), "--wait").out.strip()
    refused = fleet("resume", done)
    assert refused.code == 2
    assert "--force" in refused.err


def test_a_cancelled_job_runs_nothing_more(fleet):
    job_id = fleet("submit", fleet.spec(TINY + "options: {latency_s: 1}\n")).out.strip()

    assert fleet("cancel", job_id).code == 0

    assert fleet("show", job_id, "--json").json()["status"] == "cancelled"
    assert fleet("cancel", job_id).code == 1


DIAMOND = """steps:
  - {id: a, prompt: "a question"}
  - {id: b, needs: [a], prompt: "another"}
  - {id: c, needs: [a], prompt: "a third"}
  - {id: d, needs: [b, c], prompt: "a last"}
"""


def test_a_pipeline_of_the_default_ones_shape_is_the_canvas_of_four_celery_tasks(fleet, redis_url, client):
    job_id = fleet("submit", fleet.spec(TINY + DIAMOND), "--wait").out.strip()

    app = make_app(redis_url)
    keys = [key.decode() for key in client.keys("orch:celery:celery-task-meta-*")]
    results = [AsyncResult(key.rpartition("-meta-")[2], app=app) for key in keys]
    assert len(results) == 4, "one Celery task a step"
    assert {result.state for result in results} == {"SUCCESS"}
    assert client.hget(f"orch:{{{job_id}}}", "driver") == b"canvas"


@pytest.mark.parametrize("command", [["submit", "spec.yaml"], ["worker"], ["resume", "job_000000000000"]])
def test_a_command_that_needs_redis_says_so_with_3(orch, command):
    orch.spec(TINY)

    nowhere = orch(*command)
    assert nowhere.code == 3
    assert "ORCH_REDIS_URL" in nowhere.err

    down = orch(*command, ORCH_REDIS_URL="redis://127.0.0.1:1/0")
    assert down.code == 3
    assert "Traceback" not in down.err
    wrong = orch(*command, ORCH_REDIS_URL="http://localhost")
    assert wrong.code == 3


@pytest.mark.parametrize("command", ["show", "tail", "cancel"])
def test_an_unknown_job_is_4(orch, command):
    unknown = orch(command, "job_ffffffffffff")

    assert unknown.code == 4
    assert "orch list" in unknown.err


def test_an_ambiguous_prefix_is_refused(orch):
    for _ in range(2):
        assert orch("run", orch.spec(TINY), "-q").code == 0

    ambiguous = orch("show", "job_")

    assert ambiguous.code == 4
    assert "2 job" in ambiguous.err


def test_after_orch_run_show_tail_and_list_read_the_run_folder(orch):
    orch("run", orch.spec(TINY))
    job_id = orch.runs[0].name

    assert orch("show", job_id, "--json").json()["status"] == "succeeded"
    assert len(orch("tail", job_id, "--json").out.splitlines()) == len(orch.events(job_id))
    assert [job["job_id"] for job in orch("list", "--json").json()["jobs"]] == [job_id]
    assert "tiny/README.md" in orch("show", job_id, "--files").out
    assert orch("list", "--status", "failed", "--json").json()["jobs"] == []
