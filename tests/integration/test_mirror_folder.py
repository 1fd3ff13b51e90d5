"""The run folder, written by a mirror that is killed anywhere, twice, and with a Redis that has forgotten things."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.cache import Cache, Entry
from orchestrator.celery_app import make_app
from orchestrator.errors import OrchError
from orchestrator.events import Act, Event
from orchestrator.jobs import Jobs, about
from orchestrator.manifest import Manifest
from orchestrator.mirror import Mirror
from orchestrator.models import JobSpec
from orchestrator.names import JobKeys
from orchestrator.records import Artifact, OutputFile, StepResult
from orchestrator.runfolder import ContentChanged, RunFolder
from orchestrator.spec import LoadedSpec
from orchestrator.state import Dispatch, Stale, State
from orchestrator.stream import read_all
from providers import Completion, Usage

JOB = "job_0123456789ab"
SOURCE = "project: p\ntask_description: anything  # 你好\n"
KEY = "ab" * 32


@dataclass(frozen=True)
class Made:
    """What a step leaves: texts of files below the project and of artifacts, by their names."""

    files: Mapping[str, str]
    artifacts: Mapping[str, str]

    def result(self, project: str = "p") -> StepResult:
        return StepResult(
            artifacts=tuple(Artifact(name=name, **kept(text)) for name, text in self.artifacts.items()),
            files=tuple(
                OutputFile(path=f"{project}/{path}", **kept(text)) for path, text in self.files.items()
            ),
        )

    def blobs(self) -> dict[str, bytes]:
        texts = [*self.files.values(), *self.artifacts.values()]
        return {sha256(text.encode()): text.encode() for text in texts}


def kept(text: str) -> dict[str, Any]:
    return {"sha256": sha256(text.encode()), "size_bytes": len(text.encode())}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spec_of(*steps: str, project: str = "p") -> JobSpec:
    """A spec whose steps follow each other."""
    chain = [
        {"id": step, "prompt": "say something", "needs": steps[max(0, index - 1) : index]}
        for index, step in enumerate(steps)
    ]
    return JobSpec.model_validate(
        {
            "project": project,
            "task_description": "anything",
            "provider": "simulated",
            "concurrency": 4,
            "steps": chain,
        }
    )


def submit(state: State, spec: JobSpec) -> list[Dispatch]:
    plan = spec.plan()
    fields = {
        "spec": spec.model_dump_json(),
        "source": SOURCE,
        "plan": json.dumps([[step.id, step.kind, step.needs] for step in plan.steps]),
        "driver": "ready",
        "concurrency": 4,
        "timeout_ms": 900_000,
        "ttl_s": 1000,
    }
    return state.submit(JOB, fields, plan.dependents, about(LoadedSpec(spec, SOURCE), spec))


def run(state: State, one: Dispatch, made: Made, project: str = "p") -> list[Dispatch]:
    claim(state, one)
    sent = state.succeed(JOB, one.step, one.step, made.result(project), made.blobs(), {"duration_s": 0.25})
    assert not isinstance(sent, Stale)
    return sent


def claim(state: State, one: Dispatch) -> None:
    assert state.claim(JOB, one.step, one.ticket, one.step, 30, "a worker").verdict == "run"


OUTLINE = Made({"a.txt": "first\n", "deep/down/b.txt": "same\n"}, {"outline.txt": "an outline, ünïcode\n"})
DRAFT = Made({"a.txt": "second\n", "c.txt": "same\n"}, {"draft.txt": "a draft\n", "more.json": "{}\n"})


def whole_job(client: redis.Redis) -> list[Event]:
    """Run a job of two steps to its end, with calls and a cache entry; returns its events."""
    state = State(client)
    [first] = submit(state, spec_of("outline", "draft"))
    claim(state, first)
    asked = {"key": KEY, "provider": "simulated", "model": "m"}
    figures = {"success": True, "tokens_in": 3, "tokens_out": 4, "cost_usd": 0.0}
    state.emit(JOB, "outline", Act("cache.miss", asked), Act("llm.response", {**asked, **figures}))
    completion = Completion("an answer", Usage(3, 4), "stop", "m")
    Cache(client, Path("/nonexistent/orch"), 1000).put(Entry.of(KEY, "simulated", completion))
    [second] = run(state, first, OUTLINE)
    assert run(state, second, DRAFT) == []
    return list(read_all(client, JOB))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder, with what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mirror(client: redis.Redis, folder: RunFolder, events: list[Event]) -> list[Event]:
    with Mirror(client, folder) as writer:
        return writer.write(events)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / JOB)


# --- the whole folder -------------------------------------------------------------------------------------------------


def test_a_mirrored_job_is_complete_by_its_hashes(client: redis.Redis, folder: RunFolder) -> None:
    events = whole_job(client)

    mirror(client, folder, events)

    written = tree(folder.path)
    assert {path for path in written if not path.startswith(("logs/", "artifacts/."))} == {
        "events.jsonl",
        "manifest.json",
        "inputs/spec.yaml",
        "inputs/resolved.json",
        "outputs/p/a.txt",
        "outputs/p/deep/down/b.txt",
        "outputs/p/c.txt",
        "artifacts/outline.txt",
        "artifacts/draft.txt",
        "artifacts/more.json",
        f".cache/{KEY}.json",
    }
    assert written["inputs/spec.yaml"].decode() == SOURCE
    assert list(folder.read_events()) == events
    manifest = Manifest.model_validate_json(folder.manifest.read_bytes())
    assert {file.path: file.sha256 for file in manifest.files} == {
        path.removeprefix("outputs/"): sha256(content)
        for path, content in written.items()
        if path.startswith("outputs/")
    }
    assert {file.path: file.size_bytes for file in manifest.files} == {
        path.removeprefix("outputs/"): len(content)
        for path, content in written.items()
        if path.startswith("outputs/")
    }
    assert manifest.spec_sha256 == sha256(SOURCE.encode())
    assert manifest.status == "succeeded"
    assert manifest.completed_steps == ("outline", "draft")
    assert manifest.pending_steps == ()
    assert manifest.steps["outline"].tokens_out == 4
    for step, made in (("outline", OUTLINE), ("draft", DRAFT)):
        assert {artifact.name: artifact.sha256 for artifact in State(client).result(JOB, step).artifacts} == {  # type: ignore[union-attr]
            name: sha256(written[f"artifacts/{name}"]) for name in made.artifacts
        }


def test_logs_have_a_line_for_each_event_of_their_step(client: redis.Redis, folder: RunFolder) -> None:
    events = whole_job(client)

    mirror(client, folder, events)
    mirror(client, folder, [])

    for step in ("outline", "draft"):
        lines = (folder.logs / f"{step}.log").read_text().splitlines()
        assert [line.split()[2] for line in lines] == [event.type for event in events if event.step == step]


def test_a_mirror_writes_the_same_in_one_batch_or_in_many(
    client: redis.Redis, folder: RunFolder, tmp_path: Path
) -> None:
    events = whole_job(client)
    other = RunFolder(tmp_path / "other" / JOB)

    mirror(client, folder, events)
    with Mirror(client, other) as writer:
        for event in events:
            assert writer.write([event]) == [event]

    assert tree(folder.path) == tree(other.path)


def test_events_that_come_again_are_written_once(client: redis.Redis, folder: RunFolder) -> None:
    events = whole_job(client)

    with Mirror(client, folder) as writer:
        assert writer.write(events[:5]) == events[:5]
        assert writer.write(events[2:7]) == events[5:7]
        assert writer.write(events) == events[7:]
        assert writer.write(events) == []

    assert list(folder.read_events()) == events


# --- killed ----------------------------------------------------------------------------------------------------------


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_mirror_that_was_killed_at_any_byte_goes_on_without_loss_or_repeat(
    client: redis.Redis, folder: RunFolder, tmp_path: Path, data: st.DataObject
) -> None:
    # given a folder as it should be
    client.flushall()
    shutil.rmtree(folder.path, ignore_errors=True)
    events = whole_job(client)
    mirror(client, folder, events)
    wanted = tree(folder.path)

    # and one whose mirror had written some events, each with its effects before it, when it was killed
    killed = RunFolder(tmp_path / "killed" / JOB)
    shutil.rmtree(killed.path, ignore_errors=True)
    effects = data.draw(st.integers(0, len(events)), label="events whose effects are written")
    mirror(client, killed, events[:effects])
    before = sum(len(event.to_line().encode()) for event in events[:effects])
    cut = data.draw(st.integers(0, before), label="bytes of events.jsonl that reached the disk")
    with killed.events.open("r+b") as lines:
        lines.truncate(cut)

    # when it is started again, and once more, and sees the events from any point before
    mirror(client, killed, events[: data.draw(st.integers(0, len(events)), label="killed again after")])
    mirror(client, killed, events)

    # then nothing tells of it
    assert tree(killed.path) == wanted


@pytest.mark.parametrize("known", [0, 3])
def test_a_mirror_that_was_killed_before_it_wrote_the_manifest_writes_it_when_it_starts(
    client: redis.Redis, folder: RunFolder, known: int
) -> None:
    # given a mirror that was killed when all events had reached the disk, but no manifest, or an older one
    events = whole_job(client)
    mirror(client, folder, events)
    wanted = folder.manifest.read_bytes()
    folder.manifest.unlink()
    if known:
        older = RunFolder(folder.path.parent / "older" / JOB)
        mirror(client, older, events[:known])
        shutil.copy(older.manifest, folder.manifest)

    # when it is started again and there is nothing new
    mirror(client, folder, events)

    # then
    assert folder.manifest.read_bytes() == wanted


@pytest.mark.parametrize(
    "torn",
    [b'{"id":"1-1"', b"\n", b"\0\0\0\0", b'{"id":"1-1"}\n', b"\xff\xfe\n", b'"'],
    ids=["half a line", "an empty line", "zeros", "half an event", "no text", "a quote"],
)
def test_what_is_no_event_at_the_end_of_the_file_is_cut_off(
    client: redis.Redis, folder: RunFolder, torn: bytes
) -> None:
    events = whole_job(client)
    mirror(client, folder, events[:6])
    with folder.events.open("ab") as lines:
        lines.write(torn)

    mirror(client, folder, events)

    assert folder.events.read_text() == "".join(event.to_line() for event in events)


def test_a_second_mirror_of_a_folder_waits_for_the_first_and_adds_nothing(
    client: redis.Redis, folder: RunFolder
) -> None:
    events = whole_job(client)
    began, opened = threading.Event(), threading.Event()
    written: list[list[Event]] = []

    def second() -> None:
        began.set()
        with Mirror(client, folder) as writer:
            opened.set()
            written.append(writer.write(events))

    # given a mirror in the midst of its work, when a second is started
    with Mirror(client, folder) as first:
        first.write(events[:4])
        thread = threading.Thread(target=second)
        thread.start()
        began.wait()
        assert not opened.wait(0.1)
        first.write(events[4:])

    # then it starts after the first has ended, and has nothing to do
    thread.join()
    assert written == [[]]
    assert list(folder.read_events()) == events


# --- what Redis has lost ----------------------------------------------------------------------------------------------


def test_a_content_that_redis_has_lost_costs_that_file_alone(
    client: redis.Redis, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    events = whole_job(client)
    client.hdel(JobKeys(JOB).blobs, sha256(b"second\n"))

    mirror(client, folder, events)

    assert "p/a.txt" in caplog.text
    assert list(folder.read_events()) == events
    assert (folder.outputs / "p/c.txt").read_text() == "same\n"
    progress = folder.progress()
    assert progress.status == "succeeded"
    assert progress.steps["draft"].result
    with pytest.raises(ContentChanged, match="outputs/p/a"):
        folder.contents(progress.steps["draft"].result)


def test_a_content_that_was_damaged_in_redis_does_not_reach_the_disk(
    client: redis.Redis, folder: RunFolder
) -> None:
    events = whole_job(client)
    wrong: Any = client.hget(JobKeys(JOB).blobs, sha256(b"second\n"))
    client.hset(JobKeys(JOB).blobs, sha256(b"same\n"), wrong)

    mirror(client, folder, events)

    assert not (folder.outputs / "p/c.txt").exists()


def test_a_content_that_is_no_longer_compressed_text_does_not_stop_the_mirror(
    client: redis.Redis, folder: RunFolder
) -> None:
    events = whole_job(client)
    client.hset(JobKeys(JOB).blobs, sha256(b"same\n"), b"\0 not zlib")

    mirror(client, folder, events)

    assert list(folder.read_events()) == events


def test_a_cache_entry_that_redis_no_longer_has_is_left_out(client: redis.Redis, folder: RunFolder) -> None:
    events = whole_job(client)
    client.delete(f"orch:cache:{KEY}")

    mirror(client, folder, events)

    assert list(folder.cache.iterdir()) == []


# --- what a step may leave --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        Made({"app": "a file\n", "app/main.py": "a folder\n"}, {}),
        Made({"README.md": "one\n", "readme.md": "two\n"}, {}),
        Made({}, {"aux.txt": "the text of a step called aux\n"}),
        Made({"d/" * 31 + "x.txt": "deep\n"}, {}),
    ],
    ids=["a file that is also a folder", "names that differ in case", "a device", "too deep"],
)
def test_a_content_that_no_disk_can_hold_does_not_keep_the_rest_from_it(
    client: redis.Redis, folder: RunFolder, made: Made
) -> None:
    # given a committed step that left something that the file store refuses
    state = State(client)
    [first] = submit(state, spec_of("outline", "draft"))
    [second] = run(state, first, made)
    run(state, second, Made({"later.txt": "later\n"}, {}))
    events = list(read_all(client, JOB))

    # when
    mirror(client, folder, events)

    # then the folder tells of the whole job and holds what it can
    assert list(folder.read_events()) == events
    assert (folder.outputs / "p/later.txt").read_text() == "later\n"
    assert folder.progress().status == "succeeded"


@pytest.mark.parametrize("project", ["aux", "con", "com1"])
def test_a_project_may_have_any_name_that_a_spec_may_give_it(
    client: redis.Redis, folder: RunFolder, project: str
) -> None:
    try:
        spec = spec_of("outline", project=project)
    except ValueError:
        return  # refused where the user can still change it
    state = State(client)
    [first] = submit(state, spec)
    run(state, first, Made({"a.txt": "text\n"}, {}), project)

    mirror(client, folder, list(read_all(client, JOB)))

    assert (folder.outputs / project / "a.txt").read_text() == "text\n"


def test_half_a_surrogate_pair_in_an_event_does_not_stop_the_mirror(
    client: redis.Redis, folder: RunFolder
) -> None:
    # given a model's review that was cut in the middle of an emoji, as JSON allows
    state = State(client)
    [first] = submit(state, spec_of("outline"))
    claim(state, first)
    state.emit(JOB, "outline", Act("qa.check", {"evidence": json.loads('"half of \\ud83d"')}))
    state.succeed(JOB, first.step, first.step, StepResult(), {}, {})
    events = list(read_all(client, JOB))

    # when
    mirror(client, folder, events)

    # then
    assert [event.type for event in folder.read_events()] == [event.type for event in events]


def test_two_steps_may_leave_an_artifact_of_the_same_name(client: redis.Redis, folder: RunFolder) -> None:
    # given a pipeline with two architects, each of which leaves a plan.json
    state = State(client)
    [first] = submit(state, spec_of("one", "two"))
    [second] = run(state, first, Made({}, {"plan.json": "the plan of one\n"}))
    run(state, second, Made({}, {"plan.json": "the plan of two\n"}))

    # when
    mirror(client, folder, list(read_all(client, JOB)))

    # then the folder can give both back
    for step in folder.progress().steps.values():
        assert step.result
        assert folder.contents(step.result) is not None


def test_a_file_that_a_later_step_rewrote_does_not_undo_the_earlier_step(
    client: redis.Redis, folder: RunFolder
) -> None:
    # given a repair: the second step rewrites a file of the first
    events = whole_job(client)

    # when
    mirror(client, folder, events)

    # then both steps count as done, as the folder can rebuild the job ("Redis wiped", DESIGN section 8)
    for step in folder.progress().steps.values():
        assert step.result
        assert folder.contents(step.result) is not None


# --- back from the folder ---------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(client: redis.Redis, redis_url: str) -> Jobs:
    return Jobs(client, make_app(redis_url), 1000)


def half_done(client: redis.Redis, folder: RunFolder) -> tuple[list[Event], StepResult]:
    """A job of which the first of two steps is done, mirrored; Redis is wiped then."""
    state = State(client)
    [first] = submit(state, spec_of("outline", "draft"))
    [second] = run(state, first, OUTLINE)
    claim(state, second)
    events = list(read_all(client, JOB))
    mirror(client, folder, events)
    client.flushall()
    return events, OUTLINE.result()


def test_a_job_comes_back_from_its_folder_and_runs_only_what_is_not_in_it(
    client: redis.Redis, folder: RunFolder, jobs: Jobs
) -> None:
    events, result = half_done(client, folder)

    jobs.restore(folder)
    jobs.resume(JOB)

    state = State(client)
    assert list(read_all(client, JOB))[: len(events)] == events
    assert state.succeeded(JOB) == {"outline"}
    assert state.result(JOB, "outline") == result
    assert all(state.blob(JOB, digest) == content for digest, content in OUTLINE.blobs().items())
    assert [event.step for event in read_all(client, JOB) if event.type == "step.queued"][-1] == "draft"


def damage_nothing(_: RunFolder) -> None:
    pass


def damage_output(folder: RunFolder) -> None:
    (folder.outputs / "p/a.txt").write_text("changed by hand\n")


def lose_artifact(folder: RunFolder) -> None:
    (folder.artifacts / "outline.txt").unlink()


@pytest.mark.parametrize(
    ("damage", "done"), [(damage_nothing, {"outline"}), (damage_output, set()), (lose_artifact, set())]
)
def test_a_step_counts_as_done_only_while_its_contents_are_unchanged(
    client: redis.Redis,
    folder: RunFolder,
    jobs: Jobs,
    damage: Callable[[RunFolder], None],
    done: set[str],
) -> None:
    half_done(client, folder)
    damage(folder)

    lost = jobs.restore(folder)

    assert State(client).succeeded(JOB) == done
    assert set(lost) == {"outline"} - done


def test_why_a_step_that_was_done_runs_again_is_told(
    client: redis.Redis, folder: RunFolder, jobs: Jobs
) -> None:
    # given a job that comes back from a folder in which a file was changed
    half_done(client, folder)
    damage_output(folder)
    lost = jobs.restore(folder)

    # when it is resumed
    jobs.resume(JOB, lost=lost)

    # then its events name the file, and the step is on its way again
    [told] = [event for event in read_all(client, JOB) if event.type == "step.lost"]
    assert (told.step, told.level) == ("outline", "WARN")
    assert "outputs/p/a.txt" in told.get("reason")
    progress = jobs.progress(JOB)
    assert {step.id: step.status for step in progress.steps.values()} == {
        "outline": "queued",
        "draft": "pending",
    }
    assert progress.steps["outline"].started_ms is None


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_folder_whose_events_were_cut_anywhere_gives_a_job_back_or_says_why_not(
    client: redis.Redis, folder: RunFolder, jobs: Jobs, data: st.DataObject
) -> None:
    # given a mirror that was killed, and a Redis that was lost with it
    client.flushall()
    shutil.rmtree(folder.path, ignore_errors=True)
    mirror(client, folder, whole_job(client))
    client.flushall()
    size = folder.events.stat().st_size
    with folder.events.open("r+b") as lines:
        lines.truncate(data.draw(st.integers(0, size) | st.sampled_from([0, 1]), label="bytes left"))

    # when it is brought back
    try:
        jobs.restore(folder)
    except OrchError:
        # then there is no trace of it, if it cannot be
        assert client.dbsize() == 0
        return

    # or it is there, with the history that is left
    jobs.resume(JOB, force=True)
    progress = jobs.progress(JOB)
    assert set(progress.steps) == {"outline", "draft"}
    assert progress.attempt == 2


def test_a_mirror_goes_on_in_the_same_folder_after_the_job_came_back(
    client: redis.Redis, folder: RunFolder, jobs: Jobs
) -> None:
    half_done(client, folder)
    jobs.restore(folder)
    jobs.resume(JOB)
    state = State(client)
    claim(state, Dispatch("draft", "prompt", 1))
    state.succeed(JOB, "draft", "draft", DRAFT.result(), DRAFT.blobs(), {})

    mirror(client, folder, list(read_all(client, JOB)))

    assert list(folder.read_events()) == list(read_all(client, JOB))
    manifest = Manifest.model_validate_json(folder.manifest.read_bytes())
    assert (manifest.status, manifest.attempt) == ("succeeded", 2)
    assert {file.path: file.sha256 for file in manifest.files} == {
        "p/a.txt": sha256(b"second\n"),
        "p/c.txt": sha256(b"same\n"),
        "p/deep/down/b.txt": sha256(b"same\n"),
    }


def test_every_key_of_a_job_that_came_back_expires_unless_it_is_resumed(
    client: redis.Redis, folder: RunFolder, jobs: Jobs
) -> None:
    half_done(client, folder)

    jobs.restore(folder)

    of_the_job = [key for key in client.scan_iter() if JOB.encode() in key]
    assert all(0 < client.ttl(key) <= 1000 for key in of_the_job)


def test_contents_are_in_redis_before_the_job_is(
    client: redis.Redis, folder: RunFolder, redis_url: str
) -> None:
    # given a resume that is killed after its first write to Redis
    half_done(client, folder)
    stopping = _StopsAfterOneScript.from_url(redis_url)
    with suppress(_Killed):
        Jobs(stopping, make_app(redis_url), 1000).restore(folder)
    stopping.close()

    # when it is done again
    again = Jobs(client, make_app(redis_url), 1000)
    if not again.state.job(JOB):
        again.restore(folder)

    # then no content is missing
    result = again.state.result(JOB, "outline")
    assert result
    assert all(again.state.blob(JOB, file.sha256) is not None for file in result.files)


class _Killed(Exception):
    pass


class _StopsAfterOneScript(redis.Redis):
    """A client whose process dies after the first script that changed something."""

    _scripts = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if self._scripts:
            raise _Killed
        answer = super().execute_command(*args, **options)
        self._scripts += args[0] == "EVALSHA"
        return answer
