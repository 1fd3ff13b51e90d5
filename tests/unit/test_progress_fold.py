"""A job as its events tell it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.events import EVENT_TYPES, Event, iso
from orchestrator.manifest import Manifest
from orchestrator.progress import Progress
from orchestrator.records import Failure

JOB = "job_0123456789ab"
START_MS = 1_700_000_000_000
ABOUT: dict[str, Any] = {
    "project": "p",
    "provider": "ollama",
    "model": "m",
    "spec_sha256": "0" * 64,
    "versions": {"orch": "1"},
    "steps": [
        {"id": "a", "kind": "architect", "needs": [], "provider": "ollama", "model": "m"},
        {"id": "b", "kind": "builder", "needs": ["a"], "provider": "openai", "model": None},
        {"id": "c", "kind": "docs", "needs": ["a"], "provider": "ollama", "model": "m"},
    ],
}
FILE = {"path": "p/a.txt", "sha256": "a" * 64, "size_bytes": 3, "mode": 0o644}


class History:
    """Writes events one second apart."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.add("job.submitted", None, **ABOUT)

    def add(self, kind: Any, step: str | None = None, /, **data: Any) -> History:
        ms = START_MS + 1000 * len(self.events)
        event = Event(
            id=f"{ms}-0", ts=iso(ms), level="INFO", job_id=JOB, type=kind, step=step, data=data or None
        )
        self.events.append(event)
        return self

    def start(self, step: str, *, runs: int = 1, attempt: int = 1) -> History:
        self.add("step.queued", step)
        if self.progress().status == "queued":
            self.add("job.started", None, attempt=attempt)
        return self.add("step.started", step, kind="x", attempt=attempt, runs=runs, worker="w")

    def succeed(self, step: str, *files: dict[str, Any]) -> History:
        for file in files:
            self.add("file.written", step, **file, wrote=True, reason="created")
        return self.add("step.succeeded", step, duration_s=1, text=None, artifacts=[], data={})

    def progress(self) -> Progress:
        return Progress.of(JOB, self.events)

    def statuses(self) -> dict[str, str]:
        return {step.id: step.status for step in self.progress().steps.values()}


def test_nothing_is_known_of_a_job_without_events() -> None:
    progress = Progress.of(JOB, [])

    assert (progress.status, progress.steps, progress.last_id, progress.over) == ("queued", {}, "0", False)
    assert progress.to_json()["created_at"] is None


def test_a_submitted_job_has_its_steps_in_plan_order() -> None:
    progress = History().progress()

    assert list(progress.steps) == ["a", "b", "c"]
    assert progress.pending() == ["a", "b", "c"]
    assert progress.steps["b"].needs == ("a",)
    assert progress.to_json()["created_at"] == "2023-11-14T22:13:20.000Z"


def test_a_step_goes_from_pending_to_succeeded() -> None:
    history = History()
    seen = {"job.submitted": history.statuses()["a"]}
    for kind in ("step.queued", "step.started", "step.succeeded"):
        seen[kind] = history.add(kind, "a", attempt=1, runs=1).statuses()["a"]

    assert list(seen.values()) == ["pending", "queued", "running", "succeeded"]
    step = history.progress().steps["a"]
    assert (step.started_ms, step.finished_ms) == (START_MS + 2000, START_MS + 3000)
    assert step.to_json()["duration_s"] == 1.0


def test_completed_and_pending_steps_are_all_steps_in_plan_order() -> None:
    history = History().start("a").succeed("a").start("c").succeed("c")

    assert history.progress().completed() == ["a", "c"]
    assert history.progress().pending() == ["b"]


def test_a_failed_job_names_its_failures_and_what_did_not_run_is_pending() -> None:
    failure = {"step": "b", "kind": "qa", "message": "it did not work"}
    history = History().start("a").succeed("a").start("b").start("c")
    history.add("step.failed", "b", kind="qa", message="it did not work")
    history.succeed("c")
    progress = history.add("job.failed", None, failures=[failure]).progress()

    assert progress.over
    assert progress.status == "failed"
    assert progress.failures == [Failure(step="b", kind="qa", message="it did not work")]
    assert progress.steps["b"].error == "it did not work"
    assert history.statuses() == {"a": "succeeded", "b": "failed", "c": "succeeded"}
    assert progress.finished_ms == history.events[-1].at_ms


def test_a_cancelled_job_cancels_what_was_queued_or_running() -> None:
    history = History().start("a").succeed("a").start("b").add("step.queued", "c")

    history.add("job.cancelled", None, reason="enough")

    assert history.statuses() == {"a": "succeeded", "b": "cancelled", "c": "cancelled"}


def test_a_cancelled_job_leaves_pending_what_had_not_been_queued() -> None:
    history = History().start("a").add("job.cancelled", None, reason="enough")

    assert history.statuses() == {"a": "cancelled", "b": "pending", "c": "pending"}


def test_a_resumed_job_keeps_what_is_done_and_forgets_why_it_ended() -> None:
    history = History().start("a").succeed("a", FILE).start("b")
    history.add("step.failed", "b", kind="qa", message="no")
    history.add("job.failed", None, failures=[{"step": "b", "kind": "qa", "message": "no"}])

    history.add("job.resumed", None, attempt=2, was="failed").add("step.skipped", "a", reason="already done")
    progress = history.progress()

    assert (progress.status, progress.attempt, progress.over) == ("queued", 2, False)
    assert history.statuses() == {"a": "succeeded", "b": "pending", "c": "pending"}
    assert progress.failures == []
    assert progress.finished_ms is None
    assert progress.steps["b"].error is None
    assert progress.steps["a"].result
    assert progress.completed() == ["a"]
    assert list(progress.files) == ["p/a.txt"]


def test_a_step_that_waits_for_its_next_run_shows_no_times_of_the_last() -> None:
    history = History().start("a")
    history.add("step.failed", "a", kind="qa", message="no").add("job.failed", None, failures=[])
    history.add("job.resumed", None, attempt=2, was="failed")

    shown = history.progress().to_json()["steps"]["a"]

    assert shown["status"] == "pending"
    assert (shown["started_at"], shown["finished_at"], shown["duration_s"]) == (None, None, None)


def test_a_job_keeps_its_first_start_over_its_attempts() -> None:
    history = History().start("a").add("job.cancelled", None, reason="enough")
    history.add("job.resumed", None, attempt=2, was="cancelled").start("a", runs=2, attempt=2)
    for step in ("a", "b", "c"):
        history.succeed(step)

    progress = history.add("job.succeeded").progress()

    assert progress.started_ms == START_MS + 2000
    assert progress.finished_ms == history.events[-1].at_ms
    assert (progress.steps["a"].attempt, progress.steps["a"].runs) == (2, 2)


def test_files_are_those_last_written_whoever_wrote_them() -> None:
    history = History().start("a").succeed("a", FILE, {**FILE, "path": "p/b.txt"})
    history.start("b").succeed("b", {**FILE, "sha256": "b" * 64, "mode": 0o755})
    progress = history.progress()

    assert {path: file.sha256[0] for path, file in progress.files.items()} == {
        "p/a.txt": "b",
        "p/b.txt": "a",
    }
    assert progress.files["p/a.txt"].mode == 0o755
    assert [file["path"] for file in progress.to_json()["files"]] == ["p/a.txt", "p/b.txt"]
    assert [len(step.result.files) if step.result else 0 for step in progress.steps.values()] == [2, 1, 0]


def test_a_second_run_of_a_step_replaces_what_the_first_left() -> None:
    history = History().start("a").succeed("a", FILE)
    history.start("a", runs=2).succeed("a", {**FILE, "path": "p/new.txt"})
    step = history.progress().steps["a"]

    assert step.result
    assert [file.path for file in step.result.files] == ["p/new.txt"]


# --- steps that go back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("step.lost", {"reason": "its worker fell silent", "losses": 1, "worker": "w"}),
        ("step.retrying", {"reason": "its worker was shut down", "wait_ms": 0, "tries": 0}),
        ("step.retrying", {"reason": "rate limited", "wait_ms": 60_000, "tries": 1}),
    ],
    ids=["lost", "given back", "parked"],
)
def test_a_step_that_was_lost_or_given_back_waits_again_and_shows_no_times(
    kind: str, data: dict[str, Any]
) -> None:
    history = History().start("a").add(kind, "a", **data)
    shown = history.progress().to_json()["steps"]["a"]
    assert (shown["status"], shown["started_at"], shown["duration_s"]) == ("pending", None, None)

    history.start("a", runs=2)
    assert history.statuses()["a"] == "running"
    assert history.progress().steps["a"].runs == 2


def test_a_parked_step_says_what_it_waits_for_and_until_when() -> None:
    history = History().start("a").add("step.retrying", "a", reason="rate limited", wait_ms=60_000, tries=1)

    def waiting() -> Any:
        return history.progress().to_json()["steps"]["a"]["waiting"]

    assert waiting() == {"reason": "rate limited", "until": iso(history.events[-1].at_ms + 60_000)}
    history.add("step.queued", "a")
    assert waiting() == {"reason": "a free worker", "until": None}
    history.start("a", runs=2)
    assert waiting() is None


def test_a_step_waits_for_its_needs_or_for_a_place_or_for_nothing_any_more() -> None:
    def waiting(history: History, step: str) -> Any:
        return history.progress().to_json()["steps"][step]["waiting"]

    history = History().start("a")
    assert waiting(history, "b") == {"reason": "steps: a", "until": None}
    history.succeed("a")
    assert waiting(history, "b")["reason"].startswith("a place")
    history.start("b").add("step.failed", "b", kind="qa", message="no")
    assert waiting(history, "c")["reason"].startswith("nothing: another step failed")
    history.add("job.failed", None, failures=[])
    assert waiting(history, "c") is None


@pytest.mark.parametrize(("end", "status"), [("job.cancelled", "cancelled"), ("job.failed", "pending")])
def test_a_parked_step_of_a_job_that_ends_waits_for_nothing(end: str, status: str) -> None:
    history = History().start("a").add("step.retrying", "a", reason="rate limited", wait_ms=60_000, tries=1)

    shown = history.add(end, None, failures=[]).progress().to_json()["steps"]["a"]

    assert (shown["status"], shown["waiting"]) == (status, None)


def test_a_job_that_ran_out_of_time_says_so_without_naming_a_step() -> None:
    history = History().start("a")

    progress = history.add(
        "job.failed", None, failures=[{"step": None, "kind": "timeout", "message": "too long"}]
    ).progress()

    assert progress.failures == [Failure(step=None, kind="timeout", message="too long")]
    assert history.statuses()["a"] == "pending"


# --- figures ----------------------------------------------------------------------------------------------------------


def response(history: History, step: str, **data: Any) -> History:
    known = {"provider": "ollama", "model": "m-1", "success": True}
    return history.add("llm.request", step).add("llm.response", step, **known, **data)


def test_a_call_counts_from_its_beginning_whether_it_ends_or_not() -> None:
    assert History().add("llm.request", "a").progress().usage().provider_calls == 1


def test_calls_tokens_and_costs_add_up_by_step_and_over_all() -> None:
    history = History()
    response(history, "a", tokens_in=1, tokens_out=2, cost_usd=0.1)
    response(history, "a", tokens_in=3, tokens_out=None, cost_usd=0.2)
    response(history, "b", tokens_in=5, tokens_out=6, cost_usd=0.0)
    history.add("cache.hit", "b", key="k", provider="ollama", model="m-1", layer="disk")
    progress = history.progress()

    assert progress.steps["a"].figures.to_json() == {
        "provider_calls": 2,
        "cache_hits": 0,
        "tokens_in": 4,
        "tokens_out": 2,
        "cost_usd": 0.3,
    }
    assert progress.usage().to_json() == {
        "provider_calls": 3,
        "cache_hits": 1,
        "tokens_in": 9,
        "tokens_out": 8,
        "cost_usd": pytest.approx(0.3),
    }
    assert progress.steps["b"].model == "m-1"


def test_a_cost_that_is_unknown_makes_the_sums_unknown_and_stays_so() -> None:
    history = History()
    response(history, "a", tokens_in=1, tokens_out=1, cost_usd=None)
    response(history, "a", tokens_in=1, tokens_out=1, cost_usd=0.5)
    response(history, "b", tokens_in=1, tokens_out=1, cost_usd=0.5)
    progress = history.progress()

    assert progress.steps["a"].figures.cost_usd is None
    assert progress.steps["b"].figures.cost_usd == 0.5
    assert progress.usage().cost_usd is None


def test_many_small_costs_do_not_drift() -> None:
    history = History()
    for _ in range(1000):
        response(history, "a", cost_usd=0.000001)

    assert history.progress().usage().cost_usd == 0.001


# --- all types --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_type_of_event_is_taken_with_or_without_a_known_step(kind: str) -> None:
    data = {"job.submitted": ABOUT, "job.resumed": {"attempt": 2}, "file.written": FILE}.get(
        kind, {"key": "k"}
    )
    for step in ("a", "unknown", None):
        progress = History().add(kind, step, **data).progress()
        assert list(progress.steps) == ["a", "b", "c"]
        assert progress.last_id == f"{START_MS + 1000}-0"


def test_what_is_shown_has_every_field_of_the_contract() -> None:
    shown = History().start("a").progress().to_json()

    assert set(shown) == {
        *("schema_version", "job_id", "project", "status", "attempt", "provider", "model", "created_at"),
        *("started_at", "finished_at", "duration_s", "steps", "completed_steps", "pending_steps", "files"),
        *("failures", "usage"),
    }
    assert set(shown["steps"]["a"]) == {
        *("kind", "status", "attempt", "runs", "started_at", "finished_at", "duration_s", "provider"),
        *(
            "model",
            "provider_calls",
            "cache_hits",
            "tokens_in",
            "tokens_out",
            "cost_usd",
            "error",
            "waiting",
            "fallbacks",
        ),
    }


@pytest.mark.parametrize("length", range(1, 12))
def test_a_manifest_can_be_made_after_any_event(length: int) -> None:
    history = History().start("a").succeed("a", FILE).start("b")
    history.add("step.failed", "b", kind="qa", message="no")
    history.add("job.failed", None, failures=[{"step": "b", "kind": "qa", "message": "no"}])

    manifest = Manifest.of(Progress.of(JOB, history.events[:length]))

    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_next_commands_are_those_that_steps_name() -> None:
    history = History().start("a").add("step.succeeded", "a", data={"next": ["make", "make test"]})
    history.start("b").add("step.succeeded", "b", data={"next": "not a list"})

    assert history.progress().next_commands() == ["make", "make test"]


def test_providers_that_were_given_up_are_told_in_the_manifest() -> None:
    history = History().start("a")
    history.add("provider.fallback", "a", **{"from": "ollama", "to": "openai", "reason": "server"})

    manifest = Manifest.of(history.progress())

    assert manifest.steps["a"].fallbacks == [{"from": "ollama", "to": "openai", "reason": "server"}]
    assert manifest.steps["b"].fallbacks == []


def test_a_retry_within_a_run_leaves_the_step_running() -> None:
    history = History().start("a")
    history.add("step.retrying", "a", reason="busy", wait_ms=500, tries=1, inline=True)

    assert history.statuses()["a"] == "running"
    assert history.progress().to_json()["steps"]["a"]["waiting"] is None
