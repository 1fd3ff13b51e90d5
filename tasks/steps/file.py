"""file: one file of the project, after those it depends on; or its repair, with what the checks found."""

from __future__ import annotations

import json

from tasks.answers import only_block, syntax_error
from tasks.blueprint import PlannedFile
from tasks.checks import Check, stands_in_the_way
from tasks.prompting import render
from tasks.report import REPORT
from tasks.rounds import RoundStep
from tasks.step import Output, Step, StepError
from tasks.steps.architect import plan_of


def run(step: Step) -> Output:
    """Ask for the whole file, with the files it depends on directly in the prompt, and what all others offer it."""
    plan, place = plan_of(step), RoundStep.of(step.step.id)
    file = plan.by_path.get(place.path)
    if file is None:
        raise StepError("no_such_file", f"the plan has no file {place.path}")
    written = step.project_files(place.base, only={file.path, *file.depends_on})
    repairs = place.round > 1
    messages = render(
        "builder",
        step.spec.prompts,
        spec=step.spec,
        plan=plan.model_dump_json(indent=1),
        file=file,
        interfaces=plan.interfaces_for(file.path),
        context=[(path, written[path]) for path in file.depends_on if path in written],
        current=written.get(file.path) if repairs else None,
        evidence=_evidence(step, file) if repairs else None,
    )
    content = step.gateway.generate(messages, lambda text: _checked(file.path, only_block(text)))
    return Output(files={file.path: content})


def _checked(path: str, content: str) -> str:
    """Return the content if it can be a file of that name; ValueError says why not."""
    if problem := syntax_error(path, content):
        raise ValueError(problem)
    return content


def _evidence(step: Step, file: PlannedFile) -> str:
    """What the checks before this round found: of this file, or else all that stands in the project's way."""
    reports = [need for need in step.needs if not RoundStep.of(need).path]
    checks = [Check.model_validate(one) for one in json.loads(step.artifact(reports[0], REPORT))["checks"]]
    found = [check for check in checks if stands_in_the_way(check)]
    about = [check for check in found if file.path in check.files] or found
    return "\n\n".join(f"{check.name}: {check.evidence}" for check in about)
