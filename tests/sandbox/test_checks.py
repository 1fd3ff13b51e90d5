"""Whole projects under check: good ones pass, broken ones say where, hostile ones are contained."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import report
from tasks.blueprint import ProjectPlan
from tasks.checks import Cancelled, Check, Conditions, run_checks
from tasks.sandbox import means

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).parents[1] / "golden" / "notes_api"
GOOD = {
    "wordcount/__init__.py": "def count_words(text: str) -> int:\n    return len(text.split())\n",
    "tests/test_wordcount.py": (
        "from wordcount import count_words\n\n\ndef test_words() -> None:\n    assert count_words('a ö') == 2\n"
    ),
}
EXECUTED = ("requirements", "types", "imports", "tests")

needs_sandbox = pytest.mark.skipif(not means.sandbox().means, reason="no sandbox here")


@pytest.fixture(scope="session")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests of a session, as it is by the jobs of a machine."""
    return tmp_path_factory.mktemp("venvs")


@pytest.fixture
def conditions(venvs: Path) -> Conditions:
    return Conditions(False, frozenset(), venvs, threading.Event(), timeout_s=30)


def planned(files: Mapping[str, str], *, test_command: str = "python -m pytest") -> ProjectPlan:
    example = ProjectPlan.model_config["json_schema_extra"]["examples"][0]  # type: ignore[index]
    listed = [{**example["files"][0], "path": path} for path in files]
    return ProjectPlan.model_validate({**example, "files": listed, "test_command": test_command})


def checked(files: Mapping[str, str], conditions: Conditions, **plan: str) -> dict[str, Check]:
    return {check.name: check for check in run_checks(planned(files, **plan), files, conditions)}


def statuses(checks: Mapping[str, Check]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items()}


@needs_sandbox
def test_a_good_service_passes_every_check_with_the_same_evidence_twice(conditions: Conditions) -> None:
    paths = [path for path in GOLDEN.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files = {path.relative_to(GOLDEN).as_posix(): path.read_text() for path in paths}

    first, second = checked(files, conditions), checked(dict(reversed(files.items())), conditions)

    assert {name for name, check in first.items() if check.status != "passed"} <= {"types"}
    assert first["tests"].evidence == "7 passed in … s"
    assert (report.score(list(first.values())), report.verdict(list(first.values()))) == (100, "passed")
    assert {name: one for name, one in first.items() if name != "files"} == {
        name: one for name, one in second.items() if name != "files"
    }


@needs_sandbox
def test_a_failing_test_names_its_file_and_shows_why(conditions: Conditions) -> None:
    files = {**GOOD, "wordcount/__init__.py": "def count_words(text: str) -> int:\n    return len(text)\n"}

    tests = checked(files, conditions)["tests"]

    assert (tests.status, tests.files) == ("failed", ("tests/test_wordcount.py",))
    assert "assert 3 == 2" in tests.evidence


@needs_sandbox
def test_an_error_in_the_code_under_test_names_that_file_too(conditions: Conditions) -> None:
    files = {**GOOD, "wordcount/__init__.py": "def count_words(text: str) -> int:\n    return text.size\n"}

    tests = checked(files, conditions)["tests"]

    assert set(tests.files) == {"wordcount/__init__.py", "tests/test_wordcount.py"}
    assert "AttributeError" in tests.evidence


@needs_sandbox
def test_a_module_that_cannot_be_imported_is_named_with_what_it_imports_from(conditions: Conditions) -> None:
    files = {
        **GOOD,
        "app/main.py": "from app.db import missing\n",
        "app/db.py": "import nowhere\n",
        "app/__init__.py": "",
    }

    imports = checked(files, conditions)["imports"]

    assert (imports.status, imports.files) == ("failed", ("app/db.py", "app/main.py"))
    assert "No module named 'nowhere'" in imports.evidence


@needs_sandbox
@pytest.mark.parametrize(
    "source",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit('no')",
        "import os; os.kill(os.getpid(), 11)",
        "import os; print('imported {'); os._exit(0)",
        "import os; print('imported []'); print('imported 3', flush=True); os._exit(0)",
        "raise SystemError('x' * 3_000_000)",
    ],
    ids=["exit", "sys.exit", "signal", "half a report", "no report", "endless"],
)
def test_a_module_that_ends_the_interpreter_fails_its_import(conditions: Conditions, source: str) -> None:
    imports = checked({**GOOD, "quits.py": source}, conditions)["imports"]

    assert (imports.status, imports.files) == ("failed", ("quits.py",))


@needs_sandbox
def test_a_module_that_serves_for_ever_when_imported_is_named(conditions: Conditions) -> None:
    files = {**GOOD, "serve.py": "import time\ntime.sleep(1000)\n"}

    imports = checked(files, replace(conditions, timeout_s=3))["imports"]

    assert (imports.status, imports.files) == ("failed", ("serve.py",))
    assert "ended after 3 s" in imports.evidence


@needs_sandbox
@pytest.mark.parametrize("options", ["-q", "-qq", "-vv", "--lf --color=yes"])
def test_the_projects_own_options_of_pytest_do_not_hide_the_verdict(
    conditions: Conditions, options: str
) -> None:
    files = {**GOOD, "pyproject.toml": f'[tool.pytest.ini_options]\naddopts = "{options}"\n'}

    assert checked(files, conditions)["tests"].status == "passed"


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "no tests ran"),
        ("import os\nos._exit(0)\n", "exit code 0"),
        ("def test_it():\n    import time\n    time.sleep(1000)\n", "ended after 3 s"),
        ("def test_it():\n    while True:\n        print('x' * 10000, flush=True)\n", "ended after"),
        ("import pytest\n\n@pytest.mark.skip\ndef test_it(): ...\n", "1 skipped"),
    ],
    ids=["none", "exit", "hang", "endless", "skipped"],
)
def test_tests_that_prove_nothing_have_failed(conditions: Conditions, source: str, said: str) -> None:
    files = {"tests/test_it.py": source, "one.py": ""}

    tests = checked(files, replace(conditions, timeout_s=3))["tests"]

    assert tests.status == "failed"
    assert said in tests.evidence


def test_what_cannot_be_read_is_found_without_running_it(conditions: Conditions) -> None:
    files = {
        **GOOD,
        "a.py": "def (",
        "b.json": "{",
        "c.toml": "x =",
        "d.py": "\0",
        "e.py": "return 1",
        "f.txt": "{",
    }

    syntax = checked(files, replace(conditions, extra_packages=frozenset()))["syntax"]

    assert (syntax.status, syntax.files) == ("failed", ("a.py", "b.json", "c.toml", "d.py", "e.py"))


def test_a_name_that_is_not_there_is_found_by_lint(conditions: Conditions) -> None:
    lint = checked({**GOOD, "a.py": "def f():\n    return undefined_name\n"}, conditions)["lint"]

    assert (lint.status, lint.files) == ("failed", ("a.py",))
    assert "undefined_name" in lint.evidence


def test_a_planned_file_that_is_missing_fails(conditions: Conditions) -> None:
    checks = run_checks(planned(GOOD), {"tests/test_wordcount.py": ""}, replace(conditions, timeout_s=3))

    assert (checks[0].status, checks[0].files) == ("failed", ("wordcount/__init__.py",))


@pytest.mark.parametrize("line", ["totally-invented-package==1", "-e .", "https://x.example/y.whl"])
def test_packages_that_are_not_allowed_mean_that_nothing_is_run(conditions: Conditions, line: str) -> None:
    checks = checked({**GOOD, "requirements.txt": line}, conditions)

    assert {checks[name].status for name in EXECUTED} == {"not run"}
    assert report.verdict(list(checks.values())) == "incomplete"
    assert report.score(list(checks.values())) < 100


def test_a_version_that_does_not_exist_is_the_projects_fault(conditions: Conditions) -> None:
    checks = checked({**GOOD, "requirements.txt": "pytest==0.0.1.dev9999"}, conditions)

    assert (checks["requirements"].status, checks["requirements"].files) == ("failed", ("requirements.txt",))
    assert checks["tests"].status == "not run"


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    means.sandbox.cache_clear()
    yield
    means.sandbox.cache_clear()


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_nothing_is_executed_and_the_reason_is_told(
    conditions: Conditions, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    files = {**GOOD, "a.py": f"open({str(marker)!r}, 'w')\n"}

    checks = checked(files, conditions)

    assert {checks[name].status for name in EXECUTED} == {"not run"}
    assert "no sandbox is known" in checks["tests"].evidence
    assert not marker.exists()


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_it_is_executed_where_that_is_allowed(conditions: Conditions) -> None:
    checks = checked(GOOD, replace(conditions, allow_unsandboxed=True))

    assert statuses(checks)["tests"] == "passed"
    assert "unsandboxed" in means.described(allow_unsandboxed=True)


@needs_sandbox
def test_a_cancelled_job_ends_its_checks(conditions: Conditions) -> None:
    files = {**GOOD, "tests/test_slow.py": "def test_it():\n    import time\n    time.sleep(1000)\n"}
    checked(GOOD, conditions)
    threading.Timer(2, conditions.cancelled.set).start()

    with pytest.raises(Cancelled):
        checked(files, conditions)


@needs_sandbox
def test_tests_run_by_pytest_whatever_the_plan_calls(conditions: Conditions) -> None:
    tests = checked(GOOD, conditions, test_command="make test")["tests"]

    assert tests.status == "passed"


def test_the_report_is_one_document_for_programs_and_one_for_people() -> None:
    checks = [
        Check(name="files", status="passed", evidence="all there"),
        Check(name="tests", status="failed", evidence="```\nboom\n```", files=("tests/test_a.py",)),
        Check(name="types", status="not run", evidence="not configured", hard=False),
    ]

    told = json.loads(report.as_json(checks, "Linux namespaces"))

    assert (told["schema_version"], told["verdict"], told["score"]) == (1, "failed", 25)
    assert told["sandbox"] == "Linux namespaces"
    assert "weights" in told["formula"]
    assert [check["name"] for check in told["checks"]] == ["files", "tests", "types"]
    text = report.as_markdown(checks, "Linux namespaces")
    assert "````text\n```\nboom\n```\n````" in text
    assert "**failed**, 25/100" in text
