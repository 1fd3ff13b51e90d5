"""When a job may be resumed, what runs again then, and what becomes of a job that Redis has lost."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from orchestrator.celery_app import make_app
from orchestrator.connection import connect
from orchestrator.errors import UsageError
from orchestrator.events import Event
from orchestrator.jobs import Jobs
from orchestrator.mirror import Mirror
from orchestrator.progress import Progress
from orchestrator.runfolder import RunFolder
from orchestrator.spec import parse_spec
from orchestrator.stream import read_all
from providers.simulated import Settings
from tests.contents import everything

pytestmark = pytest.mark.integration

PATIENCE_S = 60.0
QUEUE = "orch:celery:orch"
CHAIN = {"a": {"output": "a.txt"}, "b": {"needs": ["a"], "output": "b.txt"}, "c": {"needs": ["b"]}}


@pytest.fixture
def jobs(client, redis_url):
    jobs = Jobs(client, make_app(redis_url), 1000)
    yield jobs
    jobs.app.close()


@pytest.fixture
def submit(jobs):
    """Submits a job of prompt steps, given as step → fields; returns its id."""

    def submit(steps: dict[str, dict], **fields) -> str:
        spec = {"project": "p", "task_description": "try", "provider": "simulated", "concurrency": 4}
        spec["steps"] = [{"id": step, "prompt": f"write {step}", **more} for step, more in steps.items()]
        loaded = parse_spec(json.dumps(spec | fields), "spec.yaml")
        return jobs.submit(loaded, loaded.spec)

    return submit


@pytest.fixture
def until(jobs):
    """Waits until a job's progress fulfils something; returns it."""

    def until(job_id: str, true: Callable[[Progress], bool]) -> Progress:
        deadline = time.monotonic() + PATIENCE_S
        while not true(progress := jobs.progress(job_id)):
            assert time.monotonic() < deadline, "\n".join(map(str, jobs.events(job_id)))
            time.sleep(0.05)
        return progress

    return until


def over(progress: Progress) -> bool:
    return progress.over


def runs(progress: Progress) -> dict[str, int]:
    return {step.id: step.runs for step in progress.steps.values()}


def types(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event.type == kind]


def started(events: list[Event]) -> dict[str | None, int]:
    return dict(Counter(event.step for event in types(events, "step.started")))


def fails_first() -> int:
    """A seed with which the first call of a process fails and the two after it do not."""

    def fits(seed: int) -> bool:
        dice = Settings.of({"fail_rate": 0.5, "seed": seed})
        return [dice.fails(call) for call in range(3)] == [True, False, False]

    return next(seed for seed in count() if fits(seed))


# --- what may be resumed ---------------------------------------------------------------------------------------------


def test_a_failed_job_goes_on_with_the_step_that_failed(submit, jobs, until, start_worker):
    start_worker()
    options = {"fail_rate": 0.5, "error": "server", "seed": fails_first()}
    job = submit({"a": {"options": options, "retries": 0}, "b": {"needs": ["a"]}})
    assert until(job, over).status == "failed"

    jobs.resume(job)

    progress = until(job, over)
    assert progress.status == "succeeded"
    assert progress.attempt == 2
    assert runs(progress) == {"a": 2, "b": 1}
    assert progress.failures == []


def test_a_cancelled_job_goes_on_with_what_was_not_done(submit, jobs, until, start_worker):
    start_worker()
    job = submit(CHAIN, options={"latency_s": 0.7})
    until(job, lambda progress: progress.steps["b"].status == "running")
    jobs.state.cancel(job, "for now")
    assert jobs.progress(job).status == "cancelled"

    jobs.resume(job)

    progress = until(job, over)
    assert progress.status == "succeeded"
    assert runs(progress) == {"a": 1, "b": 2, "c": 1}
    succeeded = Counter(event.step for event in types(list(jobs.events(job)), "step.succeeded"))
    assert succeeded == {"a": 1, "b": 1, "c": 1}


def test_a_job_whose_messages_are_gone_is_stuck_and_may_be_resumed(submit, jobs, until, client, start_worker):
    # given a job that nobody looks after
    job = submit(CHAIN)
    client.delete(QUEUE)
    time.sleep(2.1)  # so long a new job counts as on its way

    jobs.resume(job)
    start_worker()

    progress = until(job, over)
    assert progress.status == "succeeded"
    assert progress.attempt == 2
    assert types(list(jobs.events(job)), "job.resumed")[0].get("was") == "queued"


def test_a_job_whose_lease_ran_out_while_no_worker_lives_is_stuck(submit, state, jobs, until, start_worker):
    job = submit(CHAIN)
    state.claim(job, "a", 1, "dead", 1, "a dead worker")
    jobs.client.delete(QUEUE)
    time.sleep(2.1)

    jobs.resume(job)
    start_worker()

    assert until(job, over).status == "succeeded"
    assert jobs.client.hgetall("orch:held") == {}


# --- what may not ----------------------------------------------------------------------------------------------------


def test_a_job_that_succeeded_is_not_resumed(submit, jobs, until, client, start_worker):
    worker = start_worker()
    job = submit({"a": {}})
    until(job, over)
    worker.end()
    before = everything(client, "orch:*")

    with pytest.raises(UsageError, match="succeeded"):
        jobs.resume(job)

    assert everything(client, "orch:*") == before


def test_a_job_that_waits_in_a_long_queue_is_under_way(submit, jobs, client):
    job = submit(CHAIN)
    submit(CHAIN)
    time.sleep(2.1)
    before = everything(client, "orch:*")

    with pytest.raises(UsageError, match="queued"):
        jobs.resume(job)

    assert everything(client, "orch:*") == before


@pytest.mark.parametrize("busy", ["running", "parked"])
def test_a_job_that_runs_or_waits_for_its_time_is_under_way(submit, jobs, until, start_worker, busy):
    # given a step in a long call, or one whose provider is left alone after its failure
    start_worker(PROVIDER_CB_THRESHOLD="1")
    steps = {"running": {"a": {"options": {"latency_s": 30}}}}
    steps["parked"] = {"a": {"options": {"error": "server"}, "retries": 20}}
    job = submit(steps[busy])
    until(job, lambda progress: progress.steps["a"].runs > 0)
    until(job, lambda progress: busy == "running" or progress.steps["a"].parked)
    time.sleep(2.1)

    for _ in range(5):
        with pytest.raises(UsageError, match="running"):
            jobs.resume(job)

    assert jobs.progress(job).attempt == 1
    jobs.state.cancel(job, "shown")


@pytest.mark.parametrize("driver", ["canvas", "ready"])
def test_a_job_of_short_steps_is_never_taken_for_stuck(submit, jobs, until, start_worker, driver):
    # given a job that is always between two steps
    start_worker()
    width = 3 if driver == "canvas" else 1
    chain = {f"s{n}": {"needs": [f"s{n - 1}"] if n else []} for n in range(14)}
    job = submit(chain, options={"latency_s": 0.25}, concurrency=width)
    assert jobs.state.job(job)["driver"] == "canvas"
    if driver == "ready":  # as of a job that has left its canvas
        jobs.client.hset(f"orch:{{{job}}}", "driver", driver)
    until(job, lambda progress: progress.steps["s0"].runs > 0)

    # when somebody tries to resume it all the time
    while not jobs.progress(job).over:
        with pytest.raises(UsageError):
            jobs.resume(job)

    assert jobs.progress(job).attempt == 1


# --- twice at once ---------------------------------------------------------------------------------------------------


def at_once(redis_url: str, resume: Callable[[Jobs], None], times: int = 4) -> list[str]:
    """Resume from so many clients at once; how each ended."""

    def one(_: int) -> str:
        with connect(redis_url) as client:
            jobs = Jobs(client, make_app(redis_url), 1000)
            try:
                resume(jobs)
            except UsageError:
                return "refused"
            finally:
                jobs.app.close()
            return "resumed"

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


def test_resumes_at_once_make_one_attempt(submit, jobs, redis_url):
    for _ in range(5):
        job = submit(CHAIN)
        jobs.state.cancel(job, "for now")

        ends = at_once(redis_url, lambda theirs, job=job: theirs.resume(job))

        assert Counter(ends) == {"resumed": 1, "refused": 3}
        assert jobs.progress(job).attempt == 2
        assert len(types(list(jobs.events(job)), "job.resumed")) == 1


def mirror(client, folder: RunFolder) -> None:
    with Mirror(client, folder) as mirror:
        mirror.write(list(read_all(client, folder.job_id)))


@pytest.fixture
def half_done(submit, jobs, until, start_worker, tmp_path, client):
    """A job of a chain of which the first two steps are done and mirrored; Redis has lost all of it then."""
    worker = start_worker()
    job = submit({**CHAIN, "c": {"needs": ["b"], "options": {"latency_s": 30}}})
    until(job, lambda progress: progress.steps["c"].status == "running")
    jobs.state.cancel(job, "for now")
    worker.end()
    folder = RunFolder(tmp_path / "runs" / job)
    mirror(client, folder)
    # so that its last step ends when it runs again
    spec = json.loads(folder.resolved_spec.read_text())
    spec["steps"][2]["options"] = {}
    folder.resolved_spec.write_text(json.dumps(spec))
    client.flushall()
    return folder


def test_resumes_at_once_of_a_job_that_redis_has_lost_make_one_attempt(half_done, jobs, redis_url):
    def resume(theirs: Jobs) -> None:
        lost = {} if theirs.state.job(half_done.job_id) else theirs.restore(half_done)
        theirs.resume(half_done.job_id, lost=lost)

    ends = at_once(redis_url, resume)

    assert Counter(ends) == {"resumed": 1, "refused": 3}
    assert jobs.progress(half_done.job_id).attempt == 2


# --- a job that Redis has lost ---------------------------------------------------------------------------------------


@pytest.fixture
def resumed(half_done, orch, redis_url, start_worker, until):
    """Resumes that job as a user does, on a worker; its progress and events."""

    def resume() -> tuple[Progress, list[Event]]:
        orch.env["ORCH_REDIS_URL"] = redis_url
        ran = orch("resume", half_done.job_id)
        assert ran.code == 0, ran.err
        start_worker()
        progress = until(half_done.job_id, over)
        with connect(redis_url) as client:
            return progress, list(read_all(client, half_done.job_id))

    return resume


def test_a_lost_job_is_rebuilt_and_only_what_is_not_on_disk_runs(half_done, resumed):
    before = list(half_done.read_events())

    progress, events = resumed()

    assert events[: len(before)] == before
    assert progress.status == "succeeded"
    assert started(events) == {"a": 1, "b": 1, "c": 2}
    assert types(events, "step.lost") == []


def test_a_rebuilt_job_still_counts_its_earlier_runs(half_done, resumed):
    progress, _ = resumed()

    assert runs(progress) == {"a": 1, "b": 1, "c": 2}


DAMAGE = {
    "a changed output": lambda folder: (folder.outputs / "p" / "a.txt").write_text("by hand"),
    "a missing output": lambda folder: (folder.outputs / "p" / "a.txt").unlink(),
    "a changed artifact": lambda folder: next(folder.artifacts.rglob("a.txt")).write_text("by hand"),
    "a missing artifact": lambda folder: next(folder.artifacts.rglob("a.txt")).unlink(),
    "an empty artifact": lambda folder: next(folder.artifacts.rglob("a.txt")).write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_step_whose_content_is_not_what_it_was_runs_again_and_says_why(half_done, resumed, damage):
    DAMAGE[damage](half_done)

    progress, events = resumed()

    assert progress.status == "succeeded"
    assert started(events)["a"] == 2
    [lost] = types(events, "step.lost")
    assert lost.step == "a"
    assert "a.txt" in lost.get("reason")
    assert lost.level == "WARN"
    skipped = {event.step for event in types(events, "step.skipped")}
    assert skipped == {"b"}, "what is whole is not done again"


def test_a_symlink_in_an_artifacts_place_is_not_read(half_done, resumed, tmp_path):
    artifact = next(half_done.artifacts.rglob("a.txt"))
    elsewhere = tmp_path / "elsewhere"
    artifact.rename(elsewhere)
    artifact.symlink_to(elsewhere)

    progress, events = resumed()

    assert progress.status == "succeeded"
    assert [event.step for event in types(events, "step.lost")] == ["a"]


def test_a_job_that_is_nowhere_is_4(orch, redis_url):
    orch.env["ORCH_REDIS_URL"] = redis_url

    assert orch("resume", "job_0123456789ab").code == 4
