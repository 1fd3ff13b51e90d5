"""A flaw on order: the simulated provider answers as the scaffold does, but for a bug that the project's tests meet."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.models import JobSpec
from providers import Message, Request, Tool
from providers.errors import BadRequest
from providers.flaws import FLAW, flawed_path, with_flaw
from providers.registry import create
from tasks.blueprint import ProjectPlan, read_plan
from tasks.prompting import render

SPEC = JobSpec(project="notes", task_description="A note has a title. POST /notes and GET /notes")
PLAN = Tool("submit_plan", "", ProjectPlan.model_json_schema())


def answer(name: str, flaw: str | None, tool: Tool | None = None, **values: Any) -> str:
    provider, options = ("simulated", {"flaw": flaw}) if flaw else ("scaffold", dict[str, str]())
    messages: list[Message] = render(name, spec=SPEC, **values)
    return create(provider).complete(Request(messages, tool, options)).text


def written(flaw: str | None, **repair: str | None) -> Mapping[str, str]:
    """Every file's answer."""
    plan = read_plan(json.loads(answer("architect", flaw, PLAN)))
    values = {"plan": plan.model_dump_json(indent=1), "interfaces": [], "context": []}
    repair = {"current": None, "evidence": None} | repair
    return {file.path: answer("builder", flaw, file=file, **values, **repair) for file in plan.files}


@pytest.mark.parametrize("flaw", ["once", "always"])
def test_one_file_has_the_flaw_and_all_others_are_the_scaffolds(flaw: str) -> None:
    right, wrong = written(None), written(flaw)

    (differs,) = [path for path in right if right[path] != wrong[path]]
    assert differs == "app/routers/notes.py"
    assert wrong[differs].replace(f"    {FLAW}\n", "") == right[differs]
    assert wrong[differs] == written(flaw)[differs]


def test_a_repair_with_evidence_leaves_the_flaw_out_or_not() -> None:
    right, repair = written(None), {"current": "as it is", "evidence": "tests failed"}

    assert written("once", **repair) == right
    assert written("always", **repair) == written("always")


def test_the_plan_the_readme_and_the_review_are_the_scaffolds() -> None:
    plan = answer("architect", "always", PLAN)
    shown = read_plan(json.loads(plan)).model_dump_json(indent=1)
    verdict = Tool("submit_verdict", "", {})

    assert plan == answer("architect", None, PLAN)
    assert answer("docs", "always", plan=shown) == answer("docs", None, plan=shown)
    review = {"plan": shown, "context": [("a.py", "")], "checks": "[]"}
    assert answer("qa", "always", verdict, **review) == answer("qa", None, verdict, **review)


def test_a_prompt_of_a_users_own_is_answered_as_ever() -> None:
    messages: list[Message] = [{"role": "user", "content": "Say hello"}]

    answers = {create("simulated").generate(messages, **options).text for options in ({}, {"flaw": "once"})}

    assert len(answers) == 1


@pytest.mark.parametrize("flaw", ["twice", True, 1])
def test_another_word_is_refused(flaw: object) -> None:
    with pytest.raises(BadRequest, match=r"option flaw is .*; it must be one of once, always"):
        create("simulated").generate([{"role": "user", "content": "x"}], flaw=flaw)


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["pkg/main.py", "pkg/core.py", "tests/test_core.py"], "pkg/core.py"),
        (["tests/test_core.py"], None),
        (["core.txt", "tests/test_core.py"], None),
        ([], None),
    ],
)
def test_the_flaw_is_where_a_test_file_is_named_after_the_module(paths: list[str], found: str | None) -> None:
    assert flawed_path(paths) == found


def test_the_flaw_stands_before_a_functions_first_statement() -> None:
    code = 'def _own(): ...\n\n\ndef first(\n    a: int,\n) -> int:\n    """Say."""\n    return a\n'

    flawed = with_flaw(code)

    assert flawed == code.replace("    return a", f"    {FLAW}\n    return a")
    ast.parse(flawed)


@pytest.mark.parametrize("code", ["x = 1\n", "def _own():\n    pass\n", ""])
def test_code_without_a_public_function_is_left_alone(code: str) -> None:
    assert with_flaw(code) == code


def test_a_function_that_only_says_what_it_does_gets_the_flaw_too() -> None:
    assert FLAW in with_flaw('def first():\n    """Say."""\n')
