"""Broken specs on the command line: exit code 2, one readable message, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

GOOD = "project: good\ntask_description: Something\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
STEP = "steps: [{id: a, prompt: hello}, "

BROKEN = {
    "empty file": b"",
    "only a comment": b"# nothing\n",
    "bad YAML": b"project: [unclosed\n",
    "tab indentation": b"project:\n\tname: x\n",
    "binary": bytes(range(256)) * 10,
    "not UTF-8": "project: caf\xe9\n".encode("latin-1"),
    "10 MB": b"# " + b"x" * 10_000_000,
    "a list": b"- project\n- task\n",
    "two documents": f"{GOOD}---\n{GOOD}".encode(),
    "python object": b"project: !!python/object/apply:os.system ['touch escaped']\n",
    "alias bomb": (GOOD + BOMB).encode(),
    "alias loop": b"project: &a [*a]\n",
    "deep nesting": b"[" * 100_000,
    "duplicate key": f"{GOOD}project: again\n".encode(),
    "unknown key": f"{GOOD}concurency: 4\n".encode(),
    "wrong type": f"{GOOD}concurrency: many\n".encode(),
    "number as text": f"{GOOD}concurrency: '4'\n".encode(),
    "out of range": f"{GOOD}concurrency: 5000\n".encode(),
    "missing key": b"project: alone\n",
    "bad project name": b"project: ../escape\ntask_description: x\n",
    "unicode project name": "project: caf\xe9\ntask_description: x\n".encode(),
    "blank description": b"project: blank\ntask_description: '  '\n",
    "unknown provider": f"{GOOD}provider: hal9000\n".encode(),
    "no steps": f"{GOOD}steps: []\n".encode(),
    "cycle": f"{GOOD}{STEP}{{id: b, needs: [c], prompt: x}}, {{id: c, needs: [b], prompt: x}}]\n".encode(),
    "unknown need": f"{GOOD}{STEP}{{id: b, needs: [z], prompt: x}}]\n".encode(),
    "self need": f"{GOOD}{STEP}{{id: b, needs: [b], prompt: x}}]\n".encode(),
    "duplicate id": f"{GOOD}{STEP}{{id: a, prompt: x}}]\n".encode(),
    "unknown variable": f"{GOOD}{STEP}{{id: b, prompt: '{{{{ secret }}}}'}}]\n".encode(),
    "undeclared need": f"{GOOD}{STEP}{{id: b, prompt: '{{{{ needs.a.text }}}}'}}]\n".encode(),
    "bad template": f"{GOOD}{STEP}{{id: b, prompt: '{{% if %}}'}}]\n".encode(),
    "unsafe output": f"{GOOD}{STEP}{{id: b, prompt: x, output: ../../b.md}}]\n".encode(),
    "infinite timeout": f"{GOOD}timeout_s: .inf\n".encode(),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_spec_gives_2_and_one_message_and_leaves_nothing(orch, kind):
    (orch.folder / "broken.yaml").write_bytes(BROKEN[kind])

    ran = orch("run", "broken.yaml")

    assert ran.code == 2, (ran.out, ran.err)
    assert ran.out == ""
    assert "broken.yaml" in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err) < 2_000
    left = [path.name for path in orch.folder.rglob("*")]
    assert sorted(left) == [".venvs", "broken.yaml", "runs"]  # and what the fixture put there


def test_validate_tells_good_specs_from_bad(orch):
    good, bad = orch.spec(GOOD, "good.yaml"), orch.spec(GOOD + "concurency: 4\n", "bad.yaml")

    assert orch("validate", good).code == 0
    assert orch("validate", good, "--json").json()["specs"][0]["valid"] is True
    refused = orch("validate", good, bad)
    assert refused.code == 2
    assert "bad.yaml:3: unknown key 'concurency'" in refused.err
    assert "did you mean 'concurrency'" in refused.err


@pytest.mark.parametrize("path", ["missing.yaml", ".", "pipe", "/dev/zero", "\udcff.yaml"])
def test_a_path_that_is_no_readable_file_gives_2(orch, path):
    os.mkfifo(orch.folder / "pipe")

    ran = orch("run", path, timeout=10)

    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    assert not orch.runs


@pytest.mark.parametrize(
    "args",
    [
        ["run"],
        ["run", "--resume"],
        ["run", "spec.yaml", "--spec", "spec.yaml"],
        ["run", "spec.yaml", "--concurrency", "0"],
        ["run", "spec.yaml", "--provider", "hal9000"],
        ["run", "spec.yaml", "--no-such-flag"],
        ["validate"],
        ["tail"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_gives_2(orch, args):
    orch.spec(GOOD)

    ran = orch(*args)

    assert ran.code == 2, ran.err
    assert ran.err
    assert "Traceback" not in ran.err
    assert not orch.runs


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"PROVIDER": "hal9000"}, "PROVIDER"),
        ({"CONCURRENCY": "lots"}, "CONCURRENCY"),
        ({"ORCH_LEASE_S": "-1"}, "ORCH_LEASE_S"),
        ({"PROVIDER": "ollama"}, "ollama"),
    ],
)
def test_a_bad_environment_gives_3(orch, env, named):
    ran = orch("run", orch.spec(GOOD), **env)

    assert ran.code == 3, ran.err
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert not orch.runs


def test_a_runs_folder_that_cannot_be_written_gives_one_message(orch):
    (orch.folder / "file").write_text("in the way")

    ran = orch("run", orch.spec(GOOD), ORCH_RUNS_DIR="file/runs")

    assert ran.code in (1, 3)
    assert "file" in ran.err
    assert "Traceback" not in ran.err


def test_a_closed_pipe_is_no_error(orch):
    running = orch.start("tail", "--help")
    running.stdout.close()
    running.stderr.close()

    assert running.wait(timeout=10) in (0, 1)


def test_help_is_there_for_every_command(orch):
    listed = orch("--help")
    assert listed.code == 0
    for name in ("run", "submit", "worker", "resume", "cancel", "show", "tail", "list", "validate", "plan"):
        assert name in listed.out
        assert orch(name, "--help").code == 0


def test_help_loads_neither_celery_nor_redis_nor_pydantic(orch):
    script = (
        "import sys\nfrom orchestrator.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'celery', 'redis', 'pydantic', 'rich', 'yaml'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("provider", "option", "words"),
    [
        ("openai", "max_tokens: many", "a whole number above 0"),
        ("anthropic", "temperature: hot", "a number"),
        ("ollama", "timeout_s: -1", "a number above 0"),
        ("openai", "api: soap", "responses, chat"),
        ("simulated", "latency_s: soon", "a number from"),
        ("[scaffold, openai]", "max_tokens: 0", "a whole number above 0"),
    ],
)
def test_an_option_that_a_provider_could_never_take_is_refused_before_anything_runs(
    orch, provider, option, words
):
    # given a pipeline whose last step has an option that makes no sense
    spec = orch.spec(
        f"""
project: p
task_description: anything
provider: simulated
steps:
  - {{id: first, prompt: a question}}
  - {{id: last, needs: [first], prompt: another, provider: {provider}, options: {{{option}}}}}
"""
    )

    for command in ("validate", "run", "submit"):
        ran = orch(command, spec, ORCH_REDIS_URL="redis://127.0.0.1:9/0")
        assert (ran.code, orch.runs) == (2, []), ran.err
        assert "step last" in ran.err
        assert words in ran.err
