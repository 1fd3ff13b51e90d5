"""Step kinds from plug-ins: a function or a StepKind; one that cannot be loaded fails its steps and nothing else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

import pytest

from orchestrator.kindnames import BUILT_IN_KINDS, GROUP
from orchestrator.models import JobSpec
from orchestrator.spec import SpecError, parse_spec
from tasks.kinds import KINDS
from tasks.plugins import load_plugins
from tasks.step import Step, StepError, StepKind

HEAD = "project: a\ntask_description: b\nsteps:\n"
MODULES = {
    "good_plugin": (
        "from tasks.step import Output, StepKind\n\n\ndef run(step):\n    return Output(text='hello')\n\n\n"
        "KIND = StepKind('whatever', run, 'v1')\n"
    ),
    "raising_plugin": "raise RuntimeError('no such luck')\n",
    "leaving_plugin": "import sys\n\nsys.exit(3)\n",
}
NO_STEP = cast("Step", None)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of plug-ins that can be imported."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def load(value: str) -> StepKind:
    return load_plugins({"greet": EntryPoint("greet", value, GROUP)})["greet"]


@pytest.mark.usefixtures("modules")
def test_a_function_becomes_a_kind_whose_version_is_its_modules(tmp_path: Path) -> None:
    kind = load("good_plugin:run")

    assert kind.name == "greet"
    assert kind.run(NO_STEP).text == "hello"

    first = kind.version
    del sys.modules["good_plugin"]
    (tmp_path / "good_plugin.py").write_text(MODULES["good_plugin"].replace("hello", "good day"))
    assert load("good_plugin:run").version != first


@pytest.mark.usefixtures("modules")
def test_a_kind_is_taken_as_it_is_under_the_entry_points_name() -> None:
    kind = load("good_plugin:KIND")

    assert (kind.name, kind.version) == ("greet", "v1")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("raising_plugin:run", "RuntimeError: no such luck"),
        ("leaving_plugin:run", "SystemExit: 3"),
        ("nowhere_plugin:run", "ModuleNotFoundError: No module named 'nowhere_plugin'"),
        ("good_plugin:walk", "AttributeError: .*walk"),
        ("good_plugin:__name__", "TypeError: it is neither a StepKind nor a function"),
    ],
)
def test_one_that_cannot_be_loaded_is_logged_and_fails_its_own_steps(
    caplog: pytest.LogCaptureFixture, value: str, reason: str
) -> None:
    with caplog.at_level(logging.ERROR):
        kind = load(value)

    with pytest.raises(StepError, match=reason) as failed:
        kind.run(NO_STEP)
    assert failed.value.kind == "plugin"
    assert f"the plug-in {value} of step kind greet cannot be loaded" in caplog.text


def test_the_built_in_kinds_are_all_there() -> None:
    assert set(BUILT_IN_KINDS) <= set(KINDS)


def test_a_kind_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        SpecError, match=r"x.yaml:5: steps\[0\].kind: 'greet' is no kind of step; the kinds installed"
    ):
        parse_spec(f"{HEAD}- id: one\n  kind: greet\n", "x.yaml")


def test_a_worker_reads_the_spec_of_a_job_with_a_kind_that_it_does_not_have() -> None:
    spec = JobSpec.model_validate(
        {"project": "a", "task_description": "b", "steps": [{"id": "one", "kind": "greet", "prompt": "hi"}]}
    )

    assert spec.step("one").kind == "greet"
