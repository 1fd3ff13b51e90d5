"""An errand ends when it is told to, with whoever ordered it, and says how; without a sandbox only where allowed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.sandbox import means
from tasks.sandbox.errand import Errand, Limits
from tasks.sandbox.plain import Plain
from tasks.sandbox.supervise import Means

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
BOXES = [Plain(), *([found] if (found := means.sandbox().means) else [])]


@pytest.fixture(params=BOXES, ids=[box.name for box in BOXES])
def box(request: pytest.FixtureRequest) -> Means:
    return request.param


def run(box: Means, source: str, limits: Limits | None = None) -> str:
    return box.run(Errand(("-c", source), {}, limits=limits or Limits(time_s=20)), threading.Event()).output


def wait_until(true: Callable[[], object], what: str) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail(f"not within 10 s: {what}")


def test_the_command_sees_its_files_and_nothing_of_the_environment(
    box: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "verysecret")
    source = "import os, app.main; print(app.main.TEXT, open('data/ü.txt').read(), 'verysecret' in str(os.environ))"
    files = {"app/main.py": "TEXT = 'größe'\n", "data/ü.txt": "line\r\n"}

    ran = box.run(Errand(("-c", source), files), threading.Event())

    assert (ran.end, ran.code, ran.output) == ("exit", 0, "größe line\n False\n")


def test_the_exit_code_is_the_commands_own(box: Means) -> None:
    codes = [
        box.run(Errand(("-c", source), {}), threading.Event()).code
        for source in ("import sys; sys.exit(3)", "import os; os.kill(os.getpid(), 9)")
    ]

    assert codes == [3, 128 + 9]


def test_standard_input_is_empty(box: Means) -> None:
    assert run(box, "import sys; print(repr(sys.stdin.read()))") == "''\n"


def test_a_cancelled_errand_ends_within_a_second_with_all_it_started(box: Means) -> None:
    cancelled = threading.Event()
    mark = uuid.uuid4().hex
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(900) # {mark}'])"
    timer = threading.Timer(1, cancelled.set)
    timer.start()
    began = time.monotonic()

    ran = box.run(Errand(("-c", source), {}), cancelled)

    assert ran.end == "cancelled"
    assert time.monotonic() - began < 3
    wait_until(lambda: not sleeping(mark), "the sleeper is gone")


def test_an_errand_that_was_cancelled_before_it_began_does_nothing(box: Means) -> None:
    cancelled = threading.Event()
    cancelled.set()

    assert box.run(Errand(("-c", "print('ran')"), {}), cancelled).end == "cancelled"


@pytest.mark.skipif(not means.sandbox().means, reason="no sandbox here")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_errand_ends_with_the_process_that_ordered_it(how: signal.Signals) -> None:
    mark = uuid.uuid4().hex
    source = (
        "import threading\nfrom tasks.sandbox import means\nfrom tasks.sandbox.errand import Errand\n"
        f"errand = Errand(('-c', 'import time; time.sleep(900) # {mark}'), {{}})\n"
        "means.sandbox().means.run(errand, threading.Event())"
    )
    owner = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT)
    wait_until(lambda: sleeping(mark), "the sleeper sleeps")

    owner.send_signal(how)
    owner.wait(10)

    wait_until(lambda: not sleeping(mark), "the sleeper is gone")


@pytest.mark.skipif(not means.sandbox().means, reason="no sandbox here")
def test_many_errands_run_side_by_side_and_leave_no_descriptor_open() -> None:
    box = means.sandbox().means
    assert box
    run(box, "")
    before = open_descriptors()
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(run(box, "print('here')"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert said == ["here\n"] * 8
    assert open_descriptors() == before


def test_without_a_sandbox_nothing_is_chosen_unless_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    means.sandbox.cache_clear()
    try:
        refused, allowed = means.choose(allow_unsandboxed=False), means.choose(allow_unsandboxed=True)
    finally:
        means.sandbox.cache_clear()

    assert (refused.means, refused.why) == (None, "no sandbox is known for plan9")
    assert allowed.means == Plain()


def open_descriptors() -> int:
    return psutil.Process().num_fds()


def sleeping(mark: str) -> list[int]:
    """Processes that sleep with this mark in their command."""
    return [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if (last := (one.info["cmdline"] or [""])[-1]).startswith("import time") and mark in last
    ]
