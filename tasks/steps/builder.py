"""builder: writes the planned files, each after those it depends on."""

from __future__ import annotations

from tasks.answers import only_block, syntax_error
from tasks.blueprint import PlannedFile, ProjectPlan
from tasks.prompting import render
from tasks.step import Output, Step
from tasks.steps.architect import plan_of


def run(step: Step) -> Output:
    """Ask for one file at a time, with the files it depends on in the prompt."""
    plan = plan_of(step)
    files: dict[str, str] = {}
    for file in plan.in_build_order():
        files[file.path] = _write(step, plan, file, files)
    return Output(text=f"{len(files)} files", files=files)


def _write(step: Step, plan: ProjectPlan, file: PlannedFile, written: dict[str, str]) -> str:
    messages = render(
        "builder",
        spec=step.spec,
        plan=plan.model_dump_json(indent=1),
        file=file,
        context=[(path, written[path]) for path in file.depends_on],
    )
    return step.gateway.generate(messages, lambda text: _checked(file.path, only_block(text)))


def _checked(path: str, content: str) -> str:
    """Return the content if it can be a file of that name; ValueError says why not."""
    if problem := syntax_error(path, content):
        raise ValueError(problem)
    return content
