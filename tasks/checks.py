"""The checks of a generated project that need no model: it is read, installed, imported, and its own tests are run.

What would execute generated code runs in a sandbox, on a working copy of its own, or reads `not run` with the reason.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.blueprint import ProjectPlan
from tasks.evidence import capped, files_named, normalised
from tasks.sandbox.errand import Errand, Limits, Ran
from tasks.sandbox.means import choose
from tasks.sandbox.supervise import Means
from tasks.venvs import BuildCancelled, NotInstalled, Unsatisfiable, requirements, venv_for

RUFF_RULES = "E9,F63,F7,F82"
"""Errors, not style: what cannot be parsed, compares what it cannot, or names what is not there."""
RUFF_S = 60.0
PYTEST = ("-m", "pytest", "--verbosity=-1", "--tb=short", "-rfE", "--color=no")
MYPY = ("-m", "mypy", "--no-incremental", "--no-color-output", "--no-error-summary", ".")

_IMPORTS = """
import importlib, json, sys, traceback
failed = {}
for name in sys.argv[1:]:
    print("\\nimporting", name, flush=True)
    try:
        importlib.import_module(name)
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
        lines = traceback.format_list(frames[1:][-6:]) + traceback.format_exception_only(error)
        failed[name] = "".join(line[:2000] for line in lines)
    sys.stdout.flush()
print()
print("imported", json.dumps(failed))
"""

_SUMMARY = re.compile(r"\b[1-9]\d* passed\b.* in ")

ASKING = ("requirements.txt", "pyproject.toml")
"""Files that say which packages a project needs; the first that is there counts."""

Status = Literal["passed", "failed", "not run"]


class Check(BaseModel):
    """One check: `hard` ones decide. `files` are those of the project that a failure concerns, as far as it tells."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    status: Status
    evidence: str
    hard: bool = True
    files: tuple[str, ...] = ()


def stands_in_the_way(check: Check) -> bool:
    """Whether a check failed, or was not run for a reason that lies in the project's own files."""
    return check.status == "failed" or (check.status == "not run" and bool(check.files))


class Cancelled(Exception):
    """The job was cancelled while its checks ran."""


@dataclass(frozen=True)
class Conditions:
    """What the checks may do on this machine.

    `cache_dir` is where the environments of projects are kept, in a folder of their own; `timeout_s` is for each
    check that executes something.
    """

    allow_unsandboxed: bool
    extra_packages: frozenset[str]
    cache_dir: Path
    cancelled: threading.Event
    timeout_s: float = 120


def run_checks(plan: ProjectPlan, files: Mapping[str, str], conditions: Conditions) -> list[Check]:
    """Run every check. The same project gets the same evidence, to the byte, on the same machine.

    Raises:
        Cancelled: The event was set; nothing that was started still runs.
    """
    found = [_files(plan, files), _syntax(files), _lint(files)]
    found += _executed(plan, files, conditions)
    if conditions.cancelled.is_set():
        raise Cancelled
    return found


def _files(plan: ProjectPlan, files: Mapping[str, str]) -> Check:
    missing = [file.path for file in plan.files if file.path not in files]
    if missing:
        return _failed("files", f"missing: {', '.join(missing)}", missing)
    return _passed("files", f"all {len(plan.files)} planned files are there")


def _syntax(files: Mapping[str, str]) -> Check:
    problems = {path: problem for path, text in sorted(files.items()) if (problem := _unreadable(path, text))}
    if problems:
        return _failed("syntax", "\n".join(f"{path}: {text}" for path, text in problems.items()), problems)
    count = sum(path.endswith((".py", ".json", ".toml")) for path in files)
    return _passed("syntax", f"{count} files compile or parse")


def _unreadable(path: str, text: str) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):
            if path.endswith(".py"):
                compile(text, path, "exec", dont_inherit=True)
            elif path.endswith(".json"):
                json.loads(text)
            elif path.endswith(".toml"):
                tomllib.loads(text)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def _lint(files: Mapping[str, str]) -> Check:
    """Ruff reads and runs nothing, and reads no settings of the project: it needs no sandbox."""
    beside = Path(sys.executable).with_name("ruff")
    ruff = str(beside) if beside.exists() else shutil.which("ruff")
    if not ruff:
        return _not_run("lint", "ruff is not installed beside this worker", hard=False)
    with tempfile.TemporaryDirectory(prefix="orch-lint-") as name:
        folder = Path(name).resolve()
        for path, text in files.items():
            if path.endswith(".py"):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8", newline="")
        command = [ruff, "check", "--isolated", "--no-cache", "--quiet", "--output-format", "concise"]
        command += ["--target-version", f"py3{sys.version_info.minor}", "--select", RUFF_RULES, "."]
        try:
            done = subprocess.run(  # noqa: S603 - our own tool
                command, cwd=folder, env={}, capture_output=True, timeout=RUFF_S, check=False, text=True
            )
        except subprocess.TimeoutExpired:
            return _not_run("lint", f"ruff did not end within {RUFF_S:g} s", hard=False)
        said = normalised(done.stdout.replace(f"{folder}/", ""))
    if done.returncode == 0:
        return _passed("lint", f"ruff finds nothing ({RUFF_RULES})")
    if done.returncode == 1:
        said = "\n".join(sorted(said.splitlines()))
        return _failed("lint", said, files_named(said, files))
    return _not_run("lint", f"ruff failed: {capped(normalised(done.stderr), 500)}", hard=False)


def _executed(plan: ProjectPlan, files: Mapping[str, str], conditions: Conditions) -> list[Check]:
    """The checks that need the project's packages, and run its code."""
    modules = _modules(files)
    try:
        wanted = requirements(files, conditions.extra_packages)
    except NotInstalled as error:
        return _none_of_them("requirements", str(error), files)
    chosen = choose(allow_unsandboxed=conditions.allow_unsandboxed)
    if chosen.means is None:
        return _none_of_them("sandbox", f"there is no sandbox on this worker's machine: {chosen.why}", files)
    with ExitStack() as stack:
        try:
            venv = stack.enter_context(venv_for(wanted, conditions.cache_dir, conditions.cancelled))
        except BuildCancelled:
            raise Cancelled from None
        except Unsatisfiable as error:
            named = [path for path in ASKING if path in files][:1]
            return [
                _failed("requirements", normalised(str(error)), named),
                *_waiting("they cannot be installed"),
            ]
        except NotInstalled as error:
            return _none_of_them("packages", normalised(str(error)), files)
        runs = _Runs(chosen.means, files, venv, conditions)
        return [
            _passed("requirements", f"installed: {', '.join(wanted)}"),
            _types(runs, wanted),
            _imports(runs, modules),
            _tests(runs),
        ]


@dataclass(frozen=True)
class _Runs:
    """Where the checks of one project run."""

    means: Means
    files: Mapping[str, str]
    venv: Path
    conditions: Conditions

    def __call__(self, *arguments: str) -> Ran:
        limits = Limits(time_s=self.conditions.timeout_s)
        ran = self.means.run(Errand(arguments, self.files, self.venv, limits), self.conditions.cancelled)
        if ran.end == "cancelled":
            raise Cancelled
        return ran


def _types(runs: _Runs, wanted: Collection[str]) -> Check:
    """Only where the project configures mypy and asks for it: its plug-ins are code, so it runs in the sandbox."""
    if not _configures_mypy(runs.files):
        return _not_run("types", "the project configures no type checker", hard=False)
    if not any(line.startswith("mypy") for line in wanted):
        return _not_run("types", "the project configures mypy and does not require it", hard=False)
    ran = runs(*MYPY)
    if ran.end == "exit" and ran.code == 0:
        return _passed("types", "mypy finds nothing").model_copy(update={"hard": False})
    if ran.end == "broken":
        return _not_run("types", ran.why, hard=False)
    said = _said(ran)
    return _failed("types", said, files_named(said, runs.files)).model_copy(update={"hard": False})


def _configures_mypy(files: Mapping[str, str]) -> bool:
    return "mypy.ini" in files or "[tool.mypy]" in files.get("pyproject.toml", "")


def _imports(runs: _Runs, modules: Mapping[str, str]) -> Check:
    if not modules:
        return _not_run("imports", "the project has no module that can be imported", hard=False)
    ran = runs("-c", _IMPORTS, *modules)
    if ran.end == "broken":
        return _not_run("imports", ran.why)
    failed = _failures(ran, modules)
    if failed is None:
        return _import_without_end(runs, ran, modules)
    if not failed:
        return _passed("imports", f"{len(modules)} modules import")
    traces = {modules[name]: normalised(trace) for name, trace in failed.items()}
    evidence = "\n\n".join(f"import of {path}:\n{trace}" for path, trace in traces.items())
    named = files_named(_innermost_first(traces.values()), runs.files)
    return _failed("imports", evidence, named or tuple(traces))


def _failures(ran: Ran, modules: Collection[str]) -> dict[str, str] | None:
    """The modules that did not import, with tracebacks; None when the last word on that is missing."""
    if ran.end != "exit" or ran.code != 0:
        return None
    for line in reversed(ran.output.splitlines()):
        if line.startswith("imported "):
            with suppress(ValueError, RecursionError):
                told = json.loads(line.removeprefix("imported "))
                if isinstance(told, dict):
                    return {name: str(trace) for name, trace in told.items() if name in modules}
    return None


def _import_without_end(runs: _Runs, ran: Ran, modules: Mapping[str, str]) -> Check:
    """An import that ended the interpreter, or itself never: the one that was begun last."""
    begun = [line.removeprefix("importing ") for line in ran.output.splitlines()]
    paths = [modules[name] for name in reversed(begun) if name in modules][:1]
    said = _said(ran)
    evidence = f"the import of {paths[0] if paths else 'the first module'} did not come to its end\n{said}"
    return _failed("imports", evidence, dict.fromkeys([*paths, *files_named(said, runs.files)]))


def _innermost_first(traces: Collection[str]) -> str:
    """The lines of tracebacks such that the place of the error comes before those that led to it."""
    return "\n".join(line for trace in traces for line in reversed(trace.splitlines()))


def _tests(runs: _Runs) -> Check:
    """The project's tests by pytest, which runs unittest's too, whatever the plan calls; without any it has failed."""
    ran = runs(*PYTEST)
    if ran.end == "broken":
        return _not_run("tests", ran.why)
    said = normalised(ran.output)
    summaries = [line for line in said.splitlines() if _SUMMARY.search(line)]
    if ran.end == "exit" and ran.code == 0 and summaries:
        return _passed("tests", summaries[-1])
    return _failed("tests", _said(ran), files_named(said, runs.files))


def _said(ran: Ran) -> str:
    """What a command printed, and how it ended where that is not plain from it."""
    ending = f"exit code {ran.code}" if ran.end == "exit" else ran.why
    return "\n".join(part for part in (normalised(ran.output), ending) if part)


def _modules(files: Mapping[str, str]) -> dict[str, str]:
    """The project's modules by name, with their paths; not tests, and not what does its work when imported."""
    return {name: path for path in sorted(files) for name in _module(path)}


def _module(path: str) -> Iterator[str]:
    parts = path.removesuffix(".py").split("/")
    if not path.endswith(".py") or parts[-1] in {"__main__", "conftest", "setup"}:
        return
    if parts[0] in {"tests", "test"} or parts[-1].startswith("test_") or parts[-1].endswith("_test"):
        return
    if parts[0] == "src" and len(parts) > 1:
        parts = parts[1:]
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    if all(part.isidentifier() for part in parts):
        yield ".".join(parts)


def _none_of_them(cause: str, why: str, files: Mapping[str, str]) -> list[Check]:
    """Every check that executes something, not run for one reason; where a file asks for too much, it concerns that."""
    named = [path for path in ASKING if path in files][:1] if cause == "requirements" else []
    first = _not_run("requirements", why).model_copy(update={"files": tuple(named)})
    return [first, *_waiting(why if cause == "sandbox" else "the packages are not installed")]


def _waiting(why: str) -> list[Check]:
    return [
        _not_run("types", why, hard=False),
        _not_run("imports", why),
        _not_run("tests", why),
    ]


def _passed(name: str, evidence: str) -> Check:
    return Check(name=name, status="passed", evidence=capped(evidence))


def _failed(name: str, evidence: str, files: Collection[str]) -> Check:
    return Check(name=name, status="failed", evidence=capped(evidence), files=tuple(files))


def _not_run(name: str, why: str, *, hard: bool = True) -> Check:
    return Check(name=name, status="not run", evidence=capped(why), hard=hard)
