"""The examples run as they are, and the plug-in as a user installs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "examples"


def outputs(orch) -> dict[str, str]:
    (project,) = (orch.runs[-1] / "outputs").iterdir()
    return {
        path.relative_to(project).as_posix(): path.read_text()
        for path in project.rglob("*")
        if path.is_file()
    }


def installer() -> list[str]:
    """The beginning of a command that installs for this Python: uv's, or that of the pip that there is."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    if (Path(sys.executable).parent / "pip").exists():
        return [sys.executable, "-m", "pip", "install"]
    return [sys._base_executable, "-m", "pip", "--python", sys.executable, "install"]


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has the example plug-in installed."""
    assert any(distributions(name="setuptools")), "the plug-in is built with setuptools"
    source, target = tmp_path / "plugin", tmp_path / "installed"
    shutil.copytree(EXAMPLES / "plugin", source)  # a build leaves files beside the source
    options = [
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
        str(source),
    ]
    subprocess.run([*installer(), *options], check=True, capture_output=True, timeout=120)
    return {"PYTHONPATH": str(target)}


def test_the_book_is_outlined_by_prompts_alone(orch):
    ran = orch("run", str(EXAMPLES / "book_outline.yaml"))

    assert ran.code == 0, ran.err
    assert set(outputs(orch)) == {"outline.md", "titles.md", "opening.md"}
    assert all("simulated" in text for text in outputs(orch).values())


def test_three_reviewers_read_at_once_and_one_merges(orch):
    ran = orch("run", "--json", str(EXAMPLES / "review.yaml"))

    assert ran.code == 0, ran.err
    steps = ran.json()["steps"]
    assert {one for one in steps if steps[one]["kind"] == "prompt"} == {
        "draft",
        "reader",
        "editor",
        "skeptic",
        "merge",
    }
    begun = {event["step"]: at for at, event in enumerate(orch.events()) if event["type"] == "step.queued"}
    ended = {event["step"]: at for at, event in enumerate(orch.events()) if event["type"] == "step.succeeded"}
    reviewers = ("reader", "editor", "skeptic")
    assert max(begun[one] for one in reviewers) < min(ended[one] for one in reviewers)
    assert set(outputs(orch)) == {"draft.md", "release_note.md"}


def test_the_plug_in_counts_what_other_steps_wrote(orch, plugin):
    spec = str(EXAMPLES / "plugin" / "spec.yaml")
    assert orch("run", spec).code == 2

    ran = orch("run", spec, **plugin)

    assert ran.code == 0, ran.err
    assert outputs(orch) == {"words.txt": "     40  tides\n     40  storms\n     80  total\n"}


def test_a_plug_in_that_breaks_later_fails_its_step_and_says_why(orch, plugin):
    (Path(plugin["PYTHONPATH"]) / "orch_wordcount.py").write_text("raise RuntimeError('it broke')\n")

    ran = orch("run", str(EXAMPLES / "plugin" / "spec.yaml"), **plugin)

    assert ran.code == 1
    assert "cannot be loaded: RuntimeError: it broke" in ran.err
    told = {event["step"]: event["type"] for event in orch.events() if event["type"].startswith("step.")}
    assert told == {"tides": "step.succeeded", "storms": "step.succeeded", "count": "step.failed"}


def test_a_projects_own_prompt_is_what_is_asked_and_a_changed_one_is_asked_anew(orch):
    (orch.folder / "mine").mkdir()
    docs = orch.folder / "mine" / "docs.j2"
    own = "{% block system %}S{% endblock %}{% block user %}Say {{ spec.project }} in four backticks{% endblock %}"
    docs.write_text(own)
    orch.spec(
        "project: a\ntask_description: b\nprovider: simulated\nprompts_dir: mine\nsteps:\n"
        "- {id: plan, kind: architect}\n- {id: write, kind: docs, needs: [plan]}\n"
    )

    ran = orch("run", "spec.yaml")
    assert ran.code == 1
    assert "expected one fenced block" in ran.err

    built_in = (EXAMPLES.parent / "tasks" / "prompts" / "docs.j2").read_text()
    calls = []
    for text in (built_in, built_in, built_in.replace("You write", "You now write")):
        docs.write_text(text)
        assert orch("run", "spec.yaml").code == 0
        calls.append([event["step"] for event in orch.events() if event["type"] == "llm.request"])
    assert calls == [["write"], [], ["write"]]
