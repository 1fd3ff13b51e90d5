"""qa: checks what was built against the plan, and has a model judge the acceptance criteria.

It reads the project and does not run it: every check that would execute generated code reads `not run`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from orchestrator.events import Act
from providers import Tool
from tasks.answers import syntax_error
from tasks.blueprint import ProjectPlan
from tasks.prompting import render
from tasks.step import Output, Step, StepError
from tasks.steps.architect import plan_of

REPORT = "qa_report.json"

Evidence = Annotated[str, StringConstraints(max_length=2_000)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Judgement(_Value):
    """Whether one acceptance criterion is met, and what shows it."""

    criterion: Evidence
    met: bool
    evidence: Evidence


class Verdict(_Value):
    """The model's review."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"judgements": [], "summary": "An example, not a review."}]}
    )

    judgements: tuple[Judgement, ...] = Field(max_length=100)
    summary: Evidence


class Check(_Value):
    """One check: `hard` ones decide whether the step succeeds."""

    name: str
    status: Literal["passed", "failed", "not run"]
    evidence: str
    hard: bool = True


SUBMIT_VERDICT = Tool("submit_verdict", "Hand in the review of the project.", Verdict.model_json_schema())


def run(step: Step) -> Output:
    """Check, judge, report. A hard check that fails fails the step, after the report is in its message."""
    plan = plan_of(step)
    files = step.project_files(step.upstream("builder")) | step.project_files(step.upstream("docs"))
    checks = [*_static_checks(plan, files), _judged(step, plan, files)]
    step.emit(
        *(Act("qa.check", one.model_dump(), "ERROR" if one.status == "failed" else "INFO") for one in checks)
    )
    if failed := [check for check in checks if check.hard and check.status == "failed"]:
        raise StepError("qa", "; ".join(f"{check.name}: {check.evidence}" for check in failed))
    report = {"schema_version": 1, "checks": [check.model_dump() for check in checks]}
    summary = ", ".join(f"{check.name}: {check.status}" for check in checks)
    return Output(text=summary, artifacts={REPORT: json.dumps(report, indent=1) + "\n"})


def _static_checks(plan: ProjectPlan, files: Mapping[str, str]) -> Iterator[Check]:
    missing = [file.path for file in plan.files if file.path not in files]
    yield _check("files", missing, f"all {len(plan.files)} planned files are there")
    broken = [error for path, content in files.items() if (error := syntax_error(path, content))]
    yield _check("syntax", broken, "every Python file parses")
    yield Check(name="tests", status="not run", evidence="generated code is not executed", hard=False)


def _check(name: str, problems: list[str], otherwise: str) -> Check:
    return Check(
        name=name, status="failed" if problems else "passed", evidence="; ".join(problems) or otherwise
    )


def _judged(step: Step, plan: ProjectPlan, files: Mapping[str, str]) -> Check:
    messages = render(
        "qa", spec=step.spec, plan=plan.model_dump_json(indent=1), context=sorted(files.items())
    )
    verdict = step.gateway.tool_call(messages, SUBMIT_VERDICT, Verdict.model_validate)
    if not verdict.judgements:
        return Check(name="acceptance", status="not run", evidence=verdict.summary, hard=False)
    unmet = [f"{one.criterion}: {one.evidence}" for one in verdict.judgements if not one.met]
    return _check("acceptance", unmet, verdict.summary).model_copy(update={"hard": False})
