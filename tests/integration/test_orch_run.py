"""`orch run` as a user sees it: real processes, a real Redis of its own, a run folder at the end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import jsonschema
import psutil
import pytest

pytestmark = pytest.mark.integration

TINY = "project: tiny\ntask_description: Count words in a text\nprovider: simulated\n"
SLOW = TINY + "options: {latency_s: 0.6}\n"
ENDLESS = TINY + "options: {latency_s: 60}\n"
DOCS = Path(__file__).parent.parent.parent / "docs"


FOUR = ["architect", "builder", "docs", "qa"]


def test_a_run_leaves_a_whole_run_folder_and_ends_with_0(orch):
    ran = orch("run", orch.spec(TINY))

    assert ran.code == 0, ran.err
    (run,) = orch.runs
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "succeeded"
    assert [one for one in manifest["completed_steps"] if "/" not in one] == FOUR
    assert "builder/wordcount/__init__.py" in manifest["completed_steps"]
    assert manifest["pending_steps"] == []
    assert (run / "inputs" / "spec.yaml").read_text() == TINY
    assert {path.name for path in (run / "logs").iterdir()} >= {
        "architect.log",
        "builder.log",
        "docs.log",
        "qa.log",
    }
    assert {path.name for path in (run / "artifacts").iterdir()} >= {"plan.json", "qa_report.json"}
    on_disk = {
        str(path.relative_to(run / "outputs")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (run / "outputs").rglob("*")
        if path.is_file()
    }
    assert on_disk == {file["path"]: file["sha256"] for file in manifest["files"]}
    assert run.name in ran.out


def test_events_and_manifest_fit_their_published_schemas(orch):
    orch("run", orch.spec(TINY))

    event_schema = json.loads((DOCS / "event.schema.json").read_text())
    manifest_schema = json.loads((DOCS / "manifest.schema.json").read_text())
    for event in orch.events():
        jsonschema.validate(event, event_schema)
    jsonschema.validate(json.loads((orch.runs[-1] / "manifest.json").read_text()), manifest_schema)


def test_events_are_whole_ordered_and_each_once(orch):
    orch("run", orch.spec(TINY))

    events = orch.events()
    ids = [tuple(map(int, event["id"].split("-"))) for event in events]
    assert ids == sorted(set(ids))
    types = [event["type"] for event in events]
    assert types[0] == "job.submitted"
    assert types[-1] == "job.succeeded"
    done = [event["step"] for event in events if event["type"] == "step.succeeded"]
    assert sorted(one for one in done if "/" not in one) == FOUR
    assert len(done) == len(set(done)) == 6


def test_builder_and_docs_overlap_in_time(orch):
    orch("run", orch.spec(SLOW))

    at = {(event.get("step"), event["type"]): event["ts"] for event in orch.events()}
    started = [at[step, "step.started"] for step in ("builder", "docs")]
    ended = [at[step, "step.succeeded"] for step in ("builder", "docs")]
    assert max(started) < min(ended)
    assert at["architect", "step.succeeded"] <= min(started)
    assert max(ended) <= at["qa", "step.started"]


def test_a_second_run_of_an_unchanged_spec_calls_no_provider(orch):
    spec = orch.spec(TINY)
    orch("run", spec)
    first = orch.runs[0].name

    ran = orch("run", spec, "--json")

    steps = ran.json()["steps"]
    assert all(step["provider_calls"] == 0 for step in steps.values())
    assert all(step["cache_hits"] > 0 for name, step in steps.items() if name != "builder")
    assert ran.json()["job_id"] != first
    hits = {event["step"] for event in orch.events(ran.json()["job_id"]) if event["type"] == "cache.hit"}
    assert {one.partition("/")[0] for one in hits} == set(FOUR)


def test_the_cache_entries_a_job_used_are_in_its_run_folder(orch):
    spec = orch.spec(TINY)
    for _ in range(2):
        orch("run", spec)
        run = orch.runs[-1]
        told = [event for event in orch.events(run.name) if event["type"] in ("cache.hit", "cache.miss")]
        asked = {event["data"]["key"] for event in told}
        assert {path.stem for path in (run / ".cache").iterdir()} == asked


def test_a_failed_step_fails_the_job_with_1_and_resume_runs_only_what_is_missing(orch):
    spec = orch.spec(
        """
project: half
task_description: Fails once
provider: simulated
concurrency: 2
steps:
  - {id: first, prompt: one}
  - {id: second, needs: [first], prompt: two, options: {fail_rate: 1.0}}
  - {id: third, needs: [second], prompt: three}
"""
    )
    ran = orch("run", spec)
    assert ran.code == 1
    assert "second failed (server)" in ran.err
    job_id = orch.runs[-1].name

    again = orch("run", "--resume", job_id)

    assert again.code == 1
    resumed = [event for event in orch.events(job_id) if event["id"] > _id_of(orch, job_id, "job.resumed")]
    assert [event["step"] for event in resumed if event["type"] == "step.skipped"] == ["first"]
    assert [event["step"] for event in resumed if event["type"] == "step.started"] == ["second"]
    assert orch("run", "--resume", "--spec", spec).code == 1
    assert orch("show", job_id, "--json").json()["attempt"] == 3


def _id_of(orch, job_id: str, kind: str) -> str:
    return next(event["id"] for event in orch.events(job_id) if event["type"] == kind)


def test_an_interrupted_job_can_be_resumed_to_its_end(orch):
    running = orch.start("run", orch.spec(SLOW))
    _wait_for_event(orch, "step.succeeded", running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    job_id = orch.runs[-1].name
    assert f"orch run --resume {job_id}" in err
    assert _ended_as(orch.events(job_id)) == "job.cancelled"

    ran = orch("run", "--resume", job_id[4:9], "--json")

    assert ran.code == 0, ran.err
    shown = ran.json()
    assert shown["status"] == "succeeded"
    assert shown["attempt"] == 2
    assert shown["steps"]["architect"]["runs"] == 1


def test_a_step_whose_artifact_was_changed_on_disk_runs_again(orch):
    running = orch.start("run", orch.spec(SLOW))
    _wait_for_event(orch, "step.succeeded", running)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    job_id = orch.runs[-1].name
    (orch.runs[-1] / "artifacts" / "plan.json").write_text("{}")

    ran = orch("run", "--resume", job_id, "--json")

    assert ran.code == 0, ran.err
    assert ran.json()["steps"]["architect"]["attempt"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_running_or_listening_after_a_signal(orch, number):
    running = orch.start("run", orch.spec(ENDLESS))
    _wait_for_event(orch, "step.started", running)
    family = psutil.Process(running.pid).children(recursive=True)
    assert any("redis" in child.name() for child in family)

    running.send_signal(number)
    running.communicate(timeout=30)

    assert running.returncode == (-9 if number == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    if number != signal.SIGKILL:
        assert _ended_as(orch.events()) == "job.cancelled"


def test_ctrl_c_of_the_whole_terminal_ends_everything_too(orch):
    running = orch.start("run", orch.spec(ENDLESS))
    _wait_for_event(orch, "step.started", running)
    family = psutil.Process(running.pid).children(recursive=True)

    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=30)

    assert running.returncode == 130
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_nothing_is_left_running_after_success_or_failure(orch):
    mark = {"MARK_OF_THIS_TEST": str(orch.folder)}
    assert orch("run", orch.spec(TINY), **mark).code == 0
    assert orch("run", orch.spec(TINY + "options: {error: auth}\n"), **mark).code == 1

    alive = psutil.process_iter(["environ"])
    assert not [
        one for one in alive if (one.info["environ"] or {}).get("MARK_OF_THIS_TEST") == str(orch.folder)
    ]


def test_a_worker_that_dies_is_started_again_and_the_job_ends_well(orch):
    # given a run whose worker is killed in the midst of a step; before there was recovery, that ended the run
    running = orch.start("run", orch.spec(SLOW), ORCH_LEASE_S="2")
    _wait_for_event(orch, "step.succeeded", running)
    (worker,) = _workers(running)

    worker.kill()
    _, err = running.communicate(timeout=60)

    # then the job ends as if it had not been, without a step that is done being done again
    assert running.returncode == 0, err
    assert "Traceback" not in err
    steps = [(event["type"], event.get("step")) for event in orch.events()]
    assert [step for kind, step in steps if kind == "step.succeeded" and step == "architect"] == ["architect"]
    assert {step.partition("/")[0] for kind, step in steps if kind == "step.lost"} <= {"builder", "docs"}
    done = [step for kind, step in steps if kind == "step.succeeded"]
    assert sorted(one for one in done if "/" not in one) == FOUR
    assert len(done) == len(set(done))
    assert steps[-1] == ("job.succeeded", None)


def test_a_worker_that_dies_again_and_again_ends_the_run_with_its_log(orch):
    running = orch.start("run", orch.spec(ENDLESS))
    _wait_for_event(orch, "step.started", running)

    family = []
    deadline = time.monotonic() + 60
    while running.poll() is None:
        assert time.monotonic() < deadline
        for worker in _workers(running):
            family.append(worker)
            worker.kill()
        time.sleep(0.05)
    _, err = running.communicate(timeout=30)

    assert running.returncode == 1
    assert "the worker died" in err
    assert "Its log:" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(family, timeout=10)[1]


def _workers(running) -> list[psutil.Process]:
    found = []
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(running.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if one.cmdline()[1:3] == ["-m", "celery"]:
                    found.append(one)
    return found


def test_two_runs_at_once_do_not_meet(orch):
    spec = orch.spec(SLOW)
    both = [orch.start("run", spec, "--json") for _ in range(2)]

    shown = [json.loads(running.communicate(timeout=60)[0]) for running in both]

    assert [running.returncode for running in both] == [0, 0]
    assert len({one["job_id"] for one in shown}) == 2
    assert all(one["status"] == "succeeded" for one in shown)


def test_a_job_that_takes_too_long_fails_with_its_timeout(orch):
    ran = orch("run", orch.spec(ENDLESS + "timeout_s: 2\n"), "--json")

    assert ran.code == 1
    assert ran.json()["status"] == "failed"
    assert ran.json()["failures"][0]["kind"] == "timeout"


def test_a_dag_that_no_canvas_can_express_runs_in_order(orch):
    spec = orch.spec(
        """
project: n_shape
task_description: A to C and D, B to D
provider: simulated
steps:
  - {id: a, prompt: one}
  - {id: b, prompt: two}
  - {id: c, needs: [a], prompt: "{{ needs.a.text }}", output: notes/c.md}
  - {id: d, needs: [a, b], prompt: "{{ needs.a.text }} {{ needs.b.text }}"}
"""
    )
    ran = orch("run", spec, "--json")

    assert ran.code == 0, ran.err
    order = [(event["type"], event["step"]) for event in orch.events() if event["type"].startswith("step.")]
    for step, needs in {"c": "a", "d": "ab"}.items():
        for need in needs:
            assert order.index(("step.succeeded", need)) < order.index(("step.started", step))
    assert [file["path"] for file in ran.json()["files"]] == ["n_shape/notes/c.md"]


def test_concurrency_1_runs_one_step_at_a_time(orch):
    orch("run", orch.spec(TINY + "concurrency: 1\noptions: {latency_s: 0.1}\n"))

    # a step that makes way for others runs no more, though it is done only with them
    running = set()
    for event in orch.events():
        if event["type"] == "step.started":
            running.add(event["step"])
        elif event["type"] in ("step.succeeded", "plan.expanded"):
            running.discard(event["step"])
        assert len(running) <= 1


def test_the_finished_project_is_also_put_into_output_dir_but_never_over_other_files(orch):
    spec = orch.spec(TINY + "output_dir: made\n")
    assert orch("run", spec).code == 0
    assert (orch.folder / "made" / "wordcount" / "__init__.py").exists()
    assert orch("run", spec).code == 0, "a second run may replace what orch wrote"
    (orch.folder / "made" / "README.md").write_text("mine")

    ran = orch("run", spec)

    assert ran.code == 1
    assert "README.md" in ran.err
    assert (orch.folder / "made" / "README.md").read_text() == "mine"


def test_json_goes_to_stdout_and_everything_else_to_stderr(orch):
    ran = orch("run", orch.spec(TINY), "--json")

    document = ran.json()
    assert document["schema_version"] == 1
    assert set(document) >= {"job_id", "project", "status", "attempt", "provider", "model", "created_at", "started_at",
                             "finished_at", "duration_s", "steps", "completed_steps", "pending_steps", "files",
                             "failures", "usage"}  # fmt: skip
    assert set(document["steps"]["qa"]) == {"kind", "status", "attempt", "runs", "started_at", "finished_at",
                                            "duration_s", "provider", "model", "provider_calls", "cache_hits",
                                            "tokens_in", "tokens_out", "cost_usd", "error", "waiting",
                                            "fallbacks"}  # fmt: skip
    assert "step.succeeded qa" in ran.err


def test_quiet_prints_one_line(orch):
    ran = orch("run", orch.spec(TINY), "--quiet")

    assert len(ran.out.splitlines()) == 1
    assert ran.err == ""


def test_the_provider_of_the_environment_goes_before_the_specs(orch):
    ran = orch("run", orch.spec(TINY), "--json", PROVIDER="scaffold")

    assert ran.code == 0, ran.err
    assert ran.json()["provider"] == "scaffold"


def test_a_secret_in_the_environment_is_written_nowhere(orch):
    secret = "sk-test-0123456789abcdef"
    ran = orch("run", orch.spec(TINY), ANTHROPIC_API_KEY=secret, OPENAI_API_KEY=secret)

    assert ran.code == 0
    assert secret not in ran.out + ran.err
    for path in orch.folder.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def _ended_as(events: list[dict]) -> str:
    """How the job ended, once, with nothing started, committed or written after it.

    A call that was in flight may still report: its step learns of the end a moment later.
    """
    types = [event["type"] for event in events]
    (ended,) = [kind for kind in types if kind in ("job.succeeded", "job.failed", "job.cancelled")]
    assert set(types[types.index(ended) + 1 :]) <= {"cache.hit", "cache.miss", "llm.request", "llm.response"}
    return ended


def _wait_for_event(orch, kind: str, running) -> None:
    """Return when the newest run folder tells of such an event."""
    while running.poll() is None:
        if (
            orch.runs
            and (orch.runs[-1] / "events.jsonl").exists()
            and f'"{kind}"' in (orch.runs[-1] / "events.jsonl").read_text()
        ):
            return
        time.sleep(0.02)
    pytest.fail(f"ended early: {running.communicate()}")
