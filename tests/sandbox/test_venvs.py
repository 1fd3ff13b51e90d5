"""Environments are made once, by whoever is first, and only as many are kept as there is room for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks import venvs
from tasks.venvs import BuildCancelled, Unsatisfiable, venv_for

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NOBODY_CANCELS = threading.Event()


def test_the_racing_workers_of_a_machine_make_one_environment_and_all_get_it(tmp_path: Path) -> None:
    source = (
        "import threading, pathlib, sys\nfrom tasks.venvs import venv_for\n"
        "with venv_for(('iniconfig',), pathlib.Path(sys.argv[1]), threading.Event()) as venv:\n"
        "    print(venv, venv.stat().st_ino, (venv / 'bin/python').exists())\n"
    )
    command = [sys.executable, "-c", source, str(tmp_path)]
    racing = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    told = {one.communicate(timeout=100)[0] for one in racing}

    assert len(told) == 1
    assert "True" in told.pop()
    assert not list((tmp_path / ".venvs").glob("*.new"))


def test_pip_sees_the_index_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = venvs._environment(
        {
            "PIP_INDEX_URL": "https://mirror.example/simple",
            "https_proxy": "http://proxy.example",
            "SSL_CERT_FILE": "/ca.pem",
            "OPENAI_API_KEY": "verysecret",
            "ORCH_REDIS_URL": "redis://verysecret@host",
            "PIP_TARGET": "/elsewhere",
            "PYTHONPATH": "/elsewhere",
        }
    )

    assert set(kept) == {"PIP_INDEX_URL", "https_proxy", "SSL_CERT_FILE", "LANG", "PYTHONUTF8"}


def test_what_cannot_be_installed_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(Unsatisfiable, match=r"iniconfig==99\.99"),
        venv_for(("iniconfig==99.99",), tmp_path, NOBODY_CANCELS),
    ):
        pytest.fail("it was made")

    assert not [path for path in (tmp_path / ".venvs").iterdir() if path.is_dir()]


def test_a_cancelled_job_neither_installs_nor_waits_for_who_does(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(BuildCancelled), venv_for(("iniconfig",), tmp_path, cancelled):
        pytest.fail("it was made")

    assert not [path for path in (tmp_path / ".venvs").iterdir() if path.is_dir()]


def test_what_a_killed_worker_left_and_what_is_old_makes_room_and_nothing_else_is_touched(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ".venvs"
    old, used, new, half = (folder / (digit * 24) for digit in "abcd")
    mine = folder / "notes"
    for path in (old, used, new, mine, half.with_suffix(".new"), tmp_path / "job_0123456789ab"):
        path.mkdir(parents=True)
    for path in (old, used, mine):
        os.utime(path, (time.time() - 2 * venvs.OLDEST_S,) * 2)

    with venvs._held(used.with_suffix(".lock"), venvs.fcntl.LOCK_SH, NOBODY_CANCELS):
        venvs._make_room(folder, keep="e" * 24)

    left = {path.name for path in folder.iterdir() if path.is_dir()}
    assert left == {used.name, new.name, "notes"}
    assert (tmp_path / "job_0123456789ab").is_dir()


def test_the_longest_unused_go_when_there_are_too_many(tmp_path: Path) -> None:
    names = [f"{number:024x}" for number in range(venvs.MOST_VENVS + 3)]
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)

    venvs._make_room(tmp_path, keep="f" * 24)

    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set(names[: venvs.MOST_VENVS - 1])
