"""What a worker decides without asking anybody: when a step shall end, what an exit code means, what it may leave."""

from __future__ import annotations

import hashlib
import signal
import time

import pytest

from orchestrator.lease import Hold
from tasks.runner import ALONE_CODES, ASKED_CODES, MAX_FILE_BYTES, MAX_STEP_BYTES, pack
from tasks.step import Output, StepError

JOB = "job_0123456789ab"


# --- when a step shall end --------------------------------------------------------------------------------------------


def test_a_step_that_nobody_stops_goes_on_without_end() -> None:
    hold = Hold(JOB, "a", "token")
    hold.limit(None)

    assert not hold.stopped.is_set()
    assert (hold.reason, hold.limit_s, hold.deadline) == (None, None, float("inf"))


def test_the_first_reason_to_end_counts() -> None:
    hold = Hold(JOB, "a", "token")

    hold.stop("timeout")
    hold.stop("shutdown")

    assert hold.stopped.is_set()
    assert hold.reason == "timeout"


def test_a_limit_counts_from_when_it_is_set() -> None:
    hold = Hold(JOB, "a", "token")
    before = time.monotonic()

    hold.limit(5)

    assert before + 5 <= hold.deadline <= time.monotonic() + 5
    assert hold.limit_s == 5
    assert not hold.stopped.is_set()


# --- what the exit code of a step's own process means -----------------------------------------------------------------


def test_every_way_for_a_step_to_end_has_its_own_exit_code() -> None:
    assert sorted(ALONE_CODES.values()) == ["back", "done", "failed", "void"]
    assert ALONE_CODES[0] == "done"


@pytest.mark.parametrize(
    "code", [1, 2, 128 + signal.SIGKILL, 128 + signal.SIGSEGV, 128 + signal.SIGABRT, -signal.SIGKILL]
)
def test_a_crash_is_neither_an_end_nor_a_request_to_end(code: int) -> None:
    # 1 and 2 are what Python itself exits with: an exception that nobody caught, a bad command line
    assert code not in ALONE_CODES
    assert code not in ASKED_CODES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_asks_is_not_held_against_the_step(number: signal.Signals) -> None:
    assert {128 + number, -number} <= ASKED_CODES
    assert not set(ALONE_CODES) & ASKED_CODES


# --- what a step may leave --------------------------------------------------------------------------------------------


def test_texts_artifacts_and_files_are_kept_by_their_hashes() -> None:
    output = Output(
        text="the text", artifacts={"b.json": "{}", "a.txt": "é"}, files={"x/y.py": "{}"}, data={"n": 1}
    )

    made = pack("p", "draft", output)

    assert made.result.text == "draft.txt"
    assert [one.name for one in made.result.artifacts] == ["a.txt", "b.json", "draft.txt"]
    assert [(one.path, one.size_bytes) for one in made.result.files] == [("p/x/y.py", 2)]
    assert made.result.data == {"n": 1}
    assert set(made.blobs.values()) == {b"the text", b"{}", "é".encode()}
    assert all(hashlib.sha256(content).hexdigest() == sha256 for sha256, content in made.blobs.items())
    kept = {one.sha256 for one in (*made.result.artifacts, *made.result.files)}
    assert kept == set(made.blobs)


def test_a_step_may_leave_nothing() -> None:
    made = pack("p", "draft", Output())

    assert (made.result.text, made.result.artifacts, made.result.files, made.blobs) == (None, (), (), {})


def test_an_empty_text_is_a_text() -> None:
    assert pack("p", "draft", Output(text="")).result.text == "draft.txt"


def test_half_a_surrogate_pair_in_a_content_becomes_a_question_mark() -> None:
    made = pack("p", "draft", Output(text="cut \ud83d"))

    assert list(made.blobs.values()) == [b"cut ?"]


@pytest.mark.parametrize("path", ["../x.py", "/etc/passwd", "a/../../x.py", "", "a//../..", "con/x.py"])
def test_a_path_that_would_leave_the_project_fails_the_step(path: str) -> None:
    with pytest.raises(StepError) as raised:
        pack("p", "draft", Output(files={"good.py": "x", path: "x"}))

    assert raised.value.kind == "unsafe_path"


@pytest.mark.parametrize("what", ["text", "artifacts", "files"])
def test_a_content_that_is_too_large_fails_the_step_and_one_of_just_the_size_does_not(what: str) -> None:
    def output(size: int) -> Output:
        content = "x" * size
        return Output(text=content) if what == "text" else Output(**{what: {"a.txt": content}})

    pack("p", "draft", output(MAX_FILE_BYTES))
    with pytest.raises(StepError) as raised:
        pack("p", "draft", output(MAX_FILE_BYTES + 1))

    assert raised.value.kind == "too_large"


def test_many_contents_that_are_too_large_together_fail_the_step() -> None:
    # contents that are the same are kept once
    count = MAX_STEP_BYTES // MAX_FILE_BYTES + 1
    pack("p", "draft", Output(files={f"{number}.txt": "x" * MAX_FILE_BYTES for number in range(count)}))

    with pytest.raises(StepError) as raised:
        pack(
            "p",
            "draft",
            Output(
                files={f"{number}.txt": f"{number:04}" * (MAX_FILE_BYTES // 4) for number in range(count)}
            ),
        )

    assert raised.value.kind == "too_large"
