"""Building, checking and repairing as one user sees it: a plan that grows, and a verdict that is earned."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

SPEC = """
project: notes_api
task_description: Create a FastAPI notes app with POST /notes and GET /notes on SQLite
provider: simulated
options: {{flaw: {flaw}, latency_s: {latency}}}
concurrency: 4
repair_rounds: {rounds}
"""


def spec(orch, flaw: str, rounds: int = 2, latency: float = 0) -> str:
    return orch.spec(SPEC.format(flaw=flaw, rounds=rounds, latency=latency))


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "artifacts" / "qa_report.json").read_text())


def commits(events: list[dict[str, Any]]) -> Counter[str]:
    return Counter(event["step"] for event in events if event["type"] == "step.succeeded")


def test_what_the_checks_find_is_repaired_and_checked_again(orch):
    ran = orch("run", spec(orch, "once"), "--json", timeout=120)

    assert ran.code == 0, ran.err
    steps, events = ran.json()["steps"], orch.events()
    assert {"qa", "qa@2", "builder/app/main.py"} <= set(steps)
    [repair] = [event["data"] for event in events if event["type"] == "qa.repair"]
    assert repair["round"] == 2
    assert {f"builder/{path}@2" for path in repair["files"]} < set(steps)
    assert set(commits(events).values()) == {1}
    assert [event["type"] for event in events].count("plan.expanded") == 2
    assert (report(orch.runs[-1])["verdict"], report(orch.runs[-1])["score"]) == ("passed", 100)
    assert "**passed**, 100/100" in (orch.runs[-1] / "artifacts" / "qa_report.md").read_text()


def test_a_repair_that_changes_nothing_is_the_last_and_the_report_is_left(orch):
    ran = orch("run", spec(orch, "always", rounds=5), "--json", timeout=120)

    assert ran.code == 1
    job = ran.json()
    [failure] = job["failures"]
    assert (failure["step"], failure["kind"]) == ("qa@2", "qa")
    assert "qa_report.md" in failure["message"]
    assert "qa@3" not in job["steps"]
    assert report(orch.runs[-1])["verdict"] == "failed"
    assert report(orch.runs[-1])["score"] < 100


def test_without_rounds_nothing_is_repaired(orch):
    ran = orch("run", spec(orch, "once", rounds=0), "--json", timeout=120)

    assert ran.code == 1
    assert "qa@2" not in ran.json()["steps"]


def test_a_failing_verdict_can_be_allowed(orch):
    ran = orch("run", spec(orch, "always"), "--allow-failing-qa", "--json", timeout=120)

    assert (ran.code, ran.json()["status"]) == (0, "succeeded")
    assert report(orch.runs[-1])["verdict"] == "failed"


def test_a_second_run_asks_nobody_even_for_its_repairs(orch):
    made = spec(orch, "once")
    first = orch("run", made, "--json", timeout=120).json()

    second = orch("run", made, "--json", timeout=120).json()

    assert second["usage"]["provider_calls"] == 0
    assert second["usage"]["cache_hits"] == first["usage"]["provider_calls"] + first["usage"]["cache_hits"]


def test_a_job_that_is_interrupted_among_its_files_goes_on_with_those_that_are_missing(orch):
    # given a job that is stopped when some of its files are written
    running = orch.start("run", spec(orch, "once", latency=0.4))
    deadline = time.monotonic() + 60
    while not (orch.runs and any(one.startswith("builder/") for one in _written(orch))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    job_id, done = orch.runs[-1].name, _written(orch)

    # when it goes on, from its folder alone
    ran = orch("run", "--resume", job_id, "--json", timeout=120)

    # then what was written is not written again
    assert ran.code == 0, ran.err
    assert set(commits(orch.events(job_id)).values()) == {1}
    assert done <= set(ran.json()["completed_steps"])
    assert report(orch.runs[-1])["verdict"] == "passed"


def _written(orch) -> set[str]:
    """Steps that are committed, as far as the run folder tells."""
    try:
        lines = (orch.runs[-1] / "events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return set()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return {event["step"] for event in whole if event["type"] == "step.succeeded"}


def test_files_are_written_by_the_whole_fleet_and_a_dead_worker_loses_only_its_own(
    orch, redis_url, start_worker, eventually
):
    # given two workers and files that take a while
    workers = [start_worker(concurrency=2, ORCH_LEASE_S="2") for _ in range(2)]
    orch.env["ORCH_REDIS_URL"] = redis_url
    job_id = orch("submit", spec(orch, "once", latency=0.5)).out.strip()

    def told(kind: str) -> list[dict[str, Any]]:
        lines = orch("tail", job_id, "--json", "--type", kind).out.splitlines()
        return [json.loads(line) for line in lines]

    def writers() -> set[str]:
        return {e["data"]["worker"] for e in told("step.started") if e["step"].startswith("builder/")}

    eventually(lambda: len(writers()) == 2, 60)

    # when one of them is killed
    workers[0].end()

    # then the job ends as if it had not been
    eventually(lambda: orch("show", job_id, "--json").json()["status"] == "succeeded", 90)
    assert set(Counter(event["step"] for event in told("step.succeeded")).values()) == {1}


def test_a_project_that_is_never_checked_has_a_report_that_says_so(orch):
    garbage = "project: p\ntask_description: anything\nprovider: simulated\noptions: {error: garbage}\n"
    assert orch("run", orch.spec(garbage)).code == 1

    [check] = report(orch.runs[-1])["checks"]
    assert (check["name"], check["status"], report(orch.runs[-1])["verdict"]) == (
        "architect",
        "failed",
        "failed",
    )
