"""qa: runs what was built, has a model judge the acceptance criteria, and sends back what fails for repair.

Each round is a step of its own. The last one decides: it ends the job, with success where its hard checks pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from orchestrator.events import Act
from orchestrator.state import NewStep
from providers import Tool
from providers.errors import Rejected
from tasks.blueprint import ProjectPlan, is_test
from tasks.checks import Cancelled, Check, Conditions, run_checks, stands_in_the_way
from tasks.prompting import render
from tasks.report import READABLE, REPORT, as_json, as_markdown, score
from tasks.rounds import RoundStep
from tasks.sandbox.means import described
from tasks.step import Output, Step, StepError
from tasks.steps.architect import plan_of
from tasks.venvs import extra_packages

MOST_SAID = 300

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


SUBMIT_VERDICT = Tool("submit_verdict", "Hand in the review of the project.", Verdict.model_json_schema())


def run(step: Step) -> Output:
    """Check, judge, report; then be content, order a repair, or fail with the report left behind."""
    plan, place = plan_of(step), RoundStep.of(step.step.id)
    files = step.project_files()
    try:
        checks = run_checks(plan, files, _conditions(step))
    except Cancelled:
        raise StepError("cancelled", "the step was stopped") from None
    checks = [*checks, _judged(step, plan, files, checks)]
    step.emit(
        *(
            Act("qa.check", one.model_dump(mode="json"), "ERROR" if one.status == "failed" else "INFO")
            for one in checks
        )
    )
    output = _report(checks, described(allow_unsandboxed=step.settings.orch_allow_unsandboxed))
    failed = [check for check in checks if check.hard and stands_in_the_way(check)]
    if not failed:
        return output
    repairs = _repairs(step, plan, place, failed)
    if repairs:
        paths = [RoundStep.of(one.id).path for one in repairs[:-1]]
        step.emit(Act("qa.repair", {"round": place.round + 1, "files": paths}, "WARN"))
        return Output(output.text, output.artifacts, data=output.data, adds=repairs)
    if step.order.allow_failing_qa:
        return output
    said = "; ".join(f"{check.name}: {_short(check.evidence)}" for check in failed)
    raise StepError("qa", f"{said} (all of it is in artifacts/{READABLE})", output)


def _short(evidence: str) -> str:
    """The line that says most: the first failure that is named, or else the last line."""
    lines = [line.strip() for line in evidence.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return (named or lines[-1:] or [""])[0][:MOST_SAID]


def _conditions(step: Step) -> Conditions:
    settings = step.settings
    return Conditions(
        allow_unsandboxed=settings.orch_allow_unsandboxed,
        extra_packages=extra_packages(settings.orch_allowed_packages),
        cache_dir=settings.orch_runs_dir.absolute(),
        cancelled=step.cancelled,
    )


def _report(checks: Sequence[Check], sandbox: str) -> Output:
    summary = ", ".join(f"{check.name}: {check.status}" for check in checks)
    points = score(checks)
    return Output(
        text=f"{points}/100 ({summary})",
        artifacts={REPORT: as_json(checks, sandbox), READABLE: as_markdown(checks, sandbox)},
        data={"score": points},
    )


def _repairs(step: Step, plan: ProjectPlan, place: RoundStep, failed: Sequence[Check]) -> list[NewStep]:
    """The steps of a further round, the next check at their end; none when there is no use or no round left."""
    known = {file.path: file for file in plan.files}
    named = {path for check in failed for path in check.files if path in known}
    if not named:  # tests that never end name nothing
        named = {path for path in known if is_test(path)}
    if all(is_test(path) for path in named):  # an assertion tells where it stands, not what is wrong
        named |= {need for path in named for need in known[path].depends_on}
    concerned = [file for file in plan.in_build_order() if file.path in named]
    if not concerned or place.round > step.spec.repair_rounds or _same_as_before(step, place, failed):
        return []
    try:
        builder, following = step.upstream("builder"), place.round + 1
    except StepError:
        return []  # a pipeline that builds nothing has nobody to repair it
    ids = {file.path: RoundStep(builder, file.path, following).id for file in concerned}
    files = [
        NewStep(
            ids[file.path],
            "file",
            (step.step.id, *(ids[path] for path in file.depends_on if path in ids)),
        )
        for file in concerned
    ]
    return [*files, NewStep(RoundStep(place.base, round=following).id, "qa", tuple(ids.values()))]


def _same_as_before(step: Step, place: RoundStep, failed: Sequence[Check]) -> bool:
    """Whether the last repair changed nothing of what fails."""
    if place.round == 1:
        return False
    before = RoundStep(place.base, round=place.round - 1).id
    checks = [Check.model_validate(one) for one in json.loads(step.artifact(before, REPORT))["checks"]]
    found = {(one.name, one.evidence) for one in checks if one.hard and stands_in_the_way(one)}
    return found == {(check.name, check.evidence) for check in failed}


def _judged(step: Step, plan: ProjectPlan, files: Mapping[str, str], checks: Sequence[Check]) -> Check:
    messages = render(
        "qa",
        step.spec.prompts,
        spec=step.spec,
        plan=plan.model_dump_json(indent=1),
        context=sorted(files.items()),
        checks=json.dumps([check.model_dump(mode="json") for check in checks], indent=1),
    )
    try:
        verdict = step.gateway.tool_call(messages, SUBMIT_VERDICT, Verdict.model_validate)
    except Rejected as error:  # the other checks stand, whatever a model can make of them
        return Check(name="acceptance", status="not run", evidence=str(error), hard=False)
    if not verdict.judgements:
        return Check(name="acceptance", status="not run", evidence=verdict.summary, hard=False)
    unmet = [f"{one.criterion}: {one.evidence}" for one in verdict.judgements if not one.met]
    return Check(
        name="acceptance",
        status="failed" if unmet else "passed",
        evidence="; ".join(unmet) or verdict.summary,
        hard=False,
    )
